//! Groups: who may share translations, and what of each block is shared.

use super::areas::Areas;
use super::cost::Space;
use super::mask::{Block, Masks, Set, WRITERS};
use super::tag::{BabelContext, Ccid};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use paging::{Frame, PhysSpace, Slot};
use spin::{Mutex, MutexGuard};

/// Whose processes they are. All members of a group have the same: nobody sees
/// that a page was touched but the same user's processes of the same application.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Identity {
    /// The user.
    pub user: u32,
    /// The application: one image, in one version.
    pub application: u64,
}

/// What a group shares. Switched one by one, so that the gain can be split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sharing {
    /// Leaf tables.
    pub tables: bool,
    /// TLB entries.
    pub tlb: bool,
    /// TLB entries have the `PrivateCopy` mask. Without it, the first private
    /// copy in a block ends the sharing of its TLB entries.
    pub mask: bool,
}

impl Sharing {
    /// As published.
    pub const FULL: Sharing = Sharing { tables: true, tlb: true, mask: true };
    /// Tables alone.
    pub const TABLES: Sharing = Sharing { tables: true, tlb: false, mask: false };
    /// TLB entries alone: every member has its own tables.
    pub const TLB: Sharing = Sharing { tables: false, tlb: true, mask: true };
    /// As published, with the cheaper TLB.
    pub const NO_MASK: Sharing = Sharing { tables: true, tlb: true, mask: false };
    /// Nothing.
    pub const NONE: Sharing = Sharing { tables: false, tlb: false, mask: false };
}

/// Why a process cannot be in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupError {
    /// No group has this CCID.
    NoGroup(Ccid),
    /// The group belongs to somebody else.
    NotYours {
        /// The group.
        ccid: Ccid,
        /// Whose it is.
        group: Identity,
        /// Who asked.
        process: Identity,
    },
    /// All 4095 CCIDs are in use.
    TooManyGroups,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::NoGroup(ccid) => write!(f, "there is no group with CCID {}", ccid.0),
            GroupError::NotYours { ccid, group, process } => write!(
                f,
                "the group with CCID {} is user {}'s for application {:#x}: a process of user {} and application \
                 {:#x} must not share its translations; give it a group of its own",
                ccid.0, group.user, group.application, process.user, process.application
            ),
            GroupError::TooManyGroups => {
                write!(
                    f,
                    "all {} CCIDs are in use; run fewer applications or let some share nothing",
                    Ccid::MAX.0
                )
            }
        }
    }
}
impl core::error::Error for GroupError {}

/// What a group did, in counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupStats {
    /// Links of a table that others already had.
    pub tables_linked: u64,
    /// Of these, links of the parent's table at `fork`.
    pub tables_adopted: u64,
    /// Leaves that members got without a fault of their own: those in a table
    /// when they linked it, and those that another sharer put there later. What
    /// they save in faults is at most this, as not every member touches each page.
    pub leaves_given: u64,
    /// Tables copied because a sharer changed something alone.
    pub tables_copied: u64,
    /// Tables that their last sharer took for its own.
    pub tables_taken: u64,
    /// Members that stopped sharing a block's TLB entries, by a bit in its mask.
    pub bits_set: u64,
    /// Blocks whose TLB entries are no longer shared for want of a mask, a bit or a MaskPage.
    pub blocks_unshared: u64,
    /// Sets that fell back to private translations: more writers than bits.
    pub sets_unshared: u64,
    /// Times that the bits of ended processes were given out anew.
    pub bits_recycled: u64,
}

/// Where a member's own table for a block came from: how far its changes reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Nobody else ever saw its leaves.
    Fresh,
    /// A copy of the group's.
    Copy,
    /// It was the group's, among others, with shared TLB entries from it.
    Shown,
}

#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) parent: Option<u32>,
    pub(super) areas: Areas,
    pub(super) own: BTreeMap<Block, Origin>,
    pub(super) index: Option<u8>,
}

#[derive(Debug)]
pub(super) struct Sharer<S: PhysSpace> {
    pub(super) member: u32,
    /// Its entry that points to the table; none until it is written.
    pub(super) slot: Option<Slot<S>>,
}

/// A block whose translations are shared. It begins with its first sharer and ends with
/// its last; then nothing of it is in a TLB as the group's.
#[derive(Debug)]
pub(super) struct Shared<S: PhysSpace> {
    /// The table, when tables are shared.
    pub(super) table: Option<Frame<S>>,
    /// In the order in which they came.
    pub(super) sharers: Vec<Sharer<S>>,
    /// What all sharers that there were mapped.
    pub(super) layout: Areas,
    /// It came from one process by `fork`.
    pub(super) inherited: bool,
    /// Who is not served by the group's TLB entries.
    pub(super) mask: u32,
    /// TLB entries are private (O = 1), though the table is not.
    pub(super) unshared: bool,
}

/// Members that have a bit, by bit. Ended ones keep theirs as long as a mask has it.
#[derive(Debug)]
pub(super) struct Writers(pub(super) [Option<u32>; WRITERS]);

/// A group's state.
#[derive(Debug)]
pub struct Group<S: PhysSpace> {
    pub(super) ccid: Ccid,
    pub(super) identity: Identity,
    pub(super) sharing: Sharing,
    next: u32,
    pub(super) members: BTreeMap<u32, Member>,
    pub(super) blocks: BTreeMap<Block, Shared<S>>,
    pub(super) masks: Arc<Masks>,
    /// Sets that fell back to private translations.
    pub(super) private: Vec<Set>,
    pub(super) writers: Writers,
    pub(super) stats: GroupStats,
}

impl<S: PhysSpace> Group<S> {
    pub(super) fn sharer(&self, block: Block, member: u32) -> Option<usize> {
        self.blocks.get(&block)?.sharers.iter().position(|s| s.member == member)
    }
    /// The member's bit.
    pub(super) fn bit(&self, member: u32) -> u32 {
        self.members.get(&member).and_then(|m| m.index).map_or(0, |index| 1 << index)
    }
    /// Whether the member is kept from the group's entries for the block.
    pub(super) fn is_apart(&self, block: Block, member: u32) -> bool {
        self.blocks.get(&block).is_some_and(|b| b.mask & self.bit(member) != 0)
    }
    /// Whether the member must not be served by the group's entries for the block.
    pub(super) fn must_part(&self, block: Block, member: u32) -> bool {
        let (Some(shared), Some(m)) = (self.blocks.get(&block), self.members.get(&member)) else {
            return false;
        };
        let range = block.range();
        if m.own.contains_key(&block) {
            // What it has was perhaps changed. An undeclared one is not known to lie elsewhere.
            m.areas.meets(&shared.layout, range.clone(), shared.inherited) || !m.areas.touches(range)
        } else {
            m.areas.conflicts(&shared.layout, range, shared.inherited)
        }
    }
}

/// A group that several hold. The lock is held during one call of a table's
/// operations, never across two; a member's operations are called with its
/// table lock held, which is taken first.
#[derive(Debug)]
pub struct SharedGroup<S: PhysSpace>(Arc<Mutex<Group<S>>>);

impl<S: PhysSpace> Clone for SharedGroup<S> {
    fn clone(&self) -> Self {
        SharedGroup(self.0.clone())
    }
}

impl<S: PhysSpace> SharedGroup<S> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Group<S>> {
        self.0.lock()
    }
    /// The group's identifier.
    pub fn ccid(&self) -> Ccid {
        self.lock().ccid
    }
    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.lock().identity
    }
    /// What it shares.
    pub fn sharing(&self) -> Sharing {
        self.lock().sharing
    }
    /// What it did.
    pub fn stats(&self) -> GroupStats {
        self.lock().stats
    }
    /// Members now.
    pub fn members(&self) -> usize {
        self.lock().members.len()
    }
    /// The MaskPages, for the walkers of its members. Taken anew after every fault.
    pub fn masks(&self) -> Arc<Masks> {
        self.lock().masks.clone()
    }
    /// The memory that it takes and saves now.
    pub fn space(&self) -> Space {
        let group = self.lock();
        let shared = group.blocks.values().filter(|b| b.table.is_some());
        let none = Space { mask_pages: group.masks.len() as u64, ..Space::default() };
        shared.fold(none, |space, block| Space {
            tables: space.tables + 1,
            links: space.links + block.sharers.len() as u64,
            ..space
        })
    }
}

/// A process of a group, for those who run and fork it.
#[derive(Debug)]
pub struct Process<S: PhysSpace> {
    group: SharedGroup<S>,
    id: u32,
}

impl<S: PhysSpace> Clone for Process<S> {
    fn clone(&self) -> Self {
        Process { group: self.group.clone(), id: self.id }
    }
}

impl<S: PhysSpace> Process<S> {
    /// What a core that runs the process loads, with `pcid` for it; anew after every fault
    /// of a thread of it, which may have given it a bit.
    pub fn context(&self, pcid: u16) -> BabelContext {
        let group = self.group.lock();
        let index = group.members.get(&self.id).and_then(|m| m.index);
        BabelContext::new(group.ccid, pcid, index)
    }
    /// The group.
    pub fn group(&self) -> &SharedGroup<S> {
        &self.group
    }
    /// Its number in the group and in the `pid_list`s, not given twice.
    pub fn id(&self) -> u32 {
        self.id
    }
    /// The membership of a child that the process forks: it has the process's areas.
    pub fn fork(&self) -> Membership<S> {
        enter(&self.group, Some(self.id))
    }
}

/// A process's place in its group, for its page table; it ends when this is dropped.
#[derive(Debug)]
pub struct Membership<S: PhysSpace>(Process<S>);

impl<S: PhysSpace> Membership<S> {
    /// Whose place it is.
    pub fn process(&self) -> &Process<S> {
        &self.0
    }
}

impl<S: PhysSpace> Drop for Membership<S> {
    fn drop(&mut self) {
        let mut group = self.0.group.lock();
        group.members.remove(&self.0.id);
        // Something is left only of a table that was not torn down.
        group.blocks.retain(|_, shared| {
            shared.sharers.retain(|s| s.member != self.0.id);
            !shared.sharers.is_empty()
        });
    }
}

/// All groups of a kernel.
#[derive(Debug)]
pub struct Groups<S: PhysSpace> {
    sharing: Sharing,
    /// By CCID - 1.
    groups: Vec<SharedGroup<S>>,
}

impl<S: PhysSpace> Groups<S> {
    /// None yet; each will share what `sharing` says.
    pub fn new(sharing: Sharing) -> Self {
        Groups { sharing, groups: Vec::new() }
    }

    /// The group of all processes with `identity`.
    ///
    /// # Errors
    /// [`GroupError::TooManyGroups`].
    pub fn of(&mut self, identity: Identity) -> Result<SharedGroup<S>, GroupError> {
        if let Some(group) = self.groups.iter().find(|g| g.identity() == identity) {
            return Ok(group.clone());
        }
        let number = self.groups.len() + 1;
        if number > usize::from(Ccid::MAX.0) {
            return Err(GroupError::TooManyGroups);
        }
        let group = SharedGroup(Arc::new(Mutex::new(Group {
            ccid: Ccid(number as u16),
            identity,
            sharing: self.sharing,
            next: 0,
            members: BTreeMap::new(),
            blocks: BTreeMap::new(),
            masks: Arc::new(Masks::default()),
            private: Vec::new(),
            writers: Writers([None; WRITERS]),
            stats: GroupStats::default(),
        })));
        self.groups.push(group.clone());
        Ok(group)
    }

    /// Puts a process into the group `ccid`.
    ///
    /// # Errors
    /// [`GroupError::NoGroup`], and [`GroupError::NotYours`] if the process is another
    /// user's or another application's.
    pub fn join(&self, ccid: Ccid, process: Identity) -> Result<Membership<S>, GroupError> {
        let number = usize::from(ccid.0).checked_sub(1);
        let group = number.and_then(|n| self.groups.get(n)).ok_or(GroupError::NoGroup(ccid))?;
        let identity = group.identity();
        if identity != process {
            return Err(GroupError::NotYours { ccid, group: identity, process });
        }
        Ok(enter(group, None))
    }
}

fn enter<S: PhysSpace>(group: &SharedGroup<S>, parent: Option<u32>) -> Membership<S> {
    let mut inner = group.lock();
    inner.next += 1;
    let id = inner.next;
    let areas = parent.and_then(|p| inner.members.get(&p)).map(|p| p.areas.clone()).unwrap_or_default();
    inner.members.insert(id, Member { parent, areas, ..Member::default() });
    Membership(Process { group: group.clone(), id })
}
