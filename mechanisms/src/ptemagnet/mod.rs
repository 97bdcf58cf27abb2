//! `PTEMagnet`: contiguous host page-table entries under co-location.
//!
//! A cache line of a guest's page table has the entries of 8 neighbouring virtual
//! pages. The host's table is indexed by guest-physical address: if those pages lie on
//! 8 neighbouring, aligned guest frames, their host entries are one cache line, too;
//! if other programs faulted in between, they are on up to 8, and the host's table takes
//! that much more room in the caches. `PTEMagnet` (Margaritov, Ustiugov, Shahab, Grot;
//! ASPLOS 2021) is a guest allocator that keeps them together: the first fault in an
//! aligned region of 32 KiB reserves a block of 8 frames, and later faults in it are
//! served from that block, without the buddy allocator.
//!
//! [`PteMagnet`] is that as a [`FrameSource`](paging::FrameSource). [`Part`] is the
//! Page Reservation Table of a process, [`Reservation`] an entry of it.
//!
//! # What is different from the published code
//!
//! The artifact (a patch for Linux 4.19) serves first-touch faults only, for one process
//! number, and leaves the rest to the paper or to nobody.
//!
//! * **Ownership.** There, a reservation keeps a reference to all of its frames for
//!   as long as it lives, so that no page of it ever looks exclusive and every store after a
//!   fork copies. Here the reservation's reference passes to the page with the frame: a frame is owned once.
//! * **Unmap and discard.** There, one page that is unmapped or copied dissolves the reservation. Here
//!   a frame whose last mapping goes returns to its reservation, so that a region that is
//!   discarded and touched again (`MADV_DONTNEED` by an allocator) is on one line again; with
//!   the region's last page the block goes back whole, as the paper says.
//! * **Areas.** When an area ends, the frames for its pages go back, also of pages that were
//!   never touched; those of neighbours in the region stay.
//! * **Fork.** A child takes from its parent's reservation what is unused there; what it reserves
//!   is its own. If a page's frame was given away (to a child, or copied on a write), the next
//!   fault of the page reserves a new block for the region: what is written after the fork is contiguous again.
//! * **Pressure.** Reservations are opportunistic (no reserves, no reclaim, the faulting node only), are the
//!   first thing that reclaim takes, on the nodes that are short, and never keep more than a
//!   [threshold](Settings::threshold). The space that keeps most gives first; the paper takes one at random.
//! * **Placement.** A page that is wanted on another node gets a frame there, not the reserved one.
//! * **Switching on** by the memory limit of the process's group, and off again when it changes.
//! * **Huge pages** pass by. When one replaces small pages their block goes back.
//!
//! # Lock protocol
//!
//! As published: the fault handler of any CPU locks the entry of its region, looks, takes
//! a frame or puts a block in, and unlocks; a reclaimer locks the entry that it dissolves; one entry at a time, so
//! there is no order to keep. The tree above the entries changes under the space's lock for
//! faults (here: `&mut`), its entries under their own. `tests/ptemagnet_races.rs`
//! explores the schedules (`RUSTFLAGS="--cfg loom" cargo test -p mechanisms --test ptemagnet_races`).
//!
//! # What must hold
//!
//! Every frame of a block is the reservation's, a page's, or free, never two of these. A region whose
//! pages were all touched, with no reclaim in between, is on one line. `reserved` never exceeds
//! the threshold. `os/tests/ptemagnet.rs` holds the kernel to it.

mod magnet;
mod part;
mod reservation;
mod settings;

pub use magnet::{PteMagnet, Stats};
pub use part::Part;
pub use reservation::{Locked, Reservation};
pub use settings::{BadPages, Settings};
