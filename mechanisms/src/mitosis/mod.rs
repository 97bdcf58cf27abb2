//! Mitosis and vMitosis: page tables on every node.
//!
//! A walk that misses the caches loads page-table entries from the node that
//! the table page happens to lie on. Mitosis (Achermann, Panwar, Bhattacharjee,
//! Roscoe, Gandhi; ASPLOS 2020) keeps a copy of every table page on every node
//! and lets each CPU load the root of its own; vMitosis (Panwar, Achermann,
//! Basu, Bhattacharjee, Gopinath, Gandhi; ASPLOS 2021) does that for guest and
//! host tables, and moves the tables of programs that fit one node.
//!
//! [`Replicated`] is both, for any address space on any
//! [`TableMemory`](paging::TableMemory): a process's table, a guest's, a VM's.
//! [`Lazy`] fills replicas on demand, after Hydra (numaPTE, ATC 2024).
//! [`TablePages`] is the page-table page cache, [`group_cpus`] and [`GroupPages`] find nodes that a guest
//! is not shown, [`Policy`] and [`Auto`] say when
//! to replicate, and a [`Dump`] shows where tables and their entries are.
//!
//! # How
//!
//! The copies of a table page form a [ring](copies) through their descriptors.
//! A write goes to all of them; a leaf's is the same everywhere, an inner entry
//! points to the child's copy for the same node, so that each tree stays on its
//! node. Hardware sets accessed and dirty bits in the copy that it walks; a read
//! combines those bits of all copies, and those bits only, and what takes or
//! changes an entry does so in all, each with one atomic step.
//!
//! # What is different from the published kernels
//!
//! * **N copies, not N and a master.** There, the kernel's own tree is a further
//!   copy that no CPU loads: five pages on four nodes. Here software goes down
//!   the tree of the node that it runs on, as the frame of any copy leads to all.
//!   That is one copy less in memory and in every write, and a fault's own
//!   look-up is local.
//! * **Ranges in one pass a copy** (see [`paging::TableOps::update`]), where the
//!   kernels follow the ring for each entry.
//! * **The node mask is honoured**; there, every node gets a copy.
//! * **No page is a reason to panic**: when a node and its cache are empty a copy
//!   lies elsewhere, is counted in [`Work::tables_misplaced`](paging::Work), and
//!   [`rebalance`](paging::TableOps::rebalance) takes it home later.
//! * **Copies retire.** When copies are dropped or moved, walkers may still be in
//!   them. They stay in the ring, are kept up to date, and what hardware sets in
//!   them counts, until the flush is paid for and they are freed.
//!
//! # Lock protocol
//!
//! As [`paging::TableOps`] says: software holds the address space's table lock,
//! which covers the ring and the descriptors, while walkers of all nodes read
//! entries and set accessed and dirty bits at any time. So a present entry is
//! only changed by one atomic exchange or compare-exchange a copy, whose old
//! value is looked at: never read, then overwritten.
//!
//! # What must hold
//!
//! After every operation all copies of a table agree but for the accessed and
//! dirty bits (a lazy copy may lack entries), inner entries of a node's copy
//! lead to that node's copies, no bit that hardware set is lost, and every frame
//! is in one ring. `tests/mitosis*.rs` hold the code to it against a map from
//! page to leaf, and `tests/mitosis_races.rs` in all schedules of walkers and
//! software (`RUSTFLAGS="--cfg loom" cargo test -p mechanisms --test mitosis_races`).
//! `benches/mitosis_ops.rs` measures what it costs.

mod cache;
mod convert;
mod dump;
mod groups;
mod lazy;
mod migrate;
mod pass;
mod place;
mod policy;
mod replicated;
mod ring;

pub use cache::{CacheStats, CachedFrames, TablePages};
pub use dump::{DataKind, DataRow, Dump, Seen, TableRow};
pub use groups::{GroupPages, group_cpus};
pub use lazy::Lazy;
pub use place::Place;
pub use policy::{Auto, IDLE_COST, Policy, Sample, Thresholds};
pub use replicated::Replicated;
pub use ring::{Role, copies, nodes, role, serving};
