//! The free lists of a zone, by mobility and order.
//!
//! A list is a ring through the words of its blocks' heads, so that it costs no memory and both
//! its ends are at hand.

use super::descriptors::{Descriptors, Word};
use super::{Mobility, ORDERS};

/// Free blocks of one order and mobility.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FreeList {
    /// The block that is used next, if `len` is not 0.
    pub head: u64,
    pub len: u64,
}

/// Where in a list a block goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Used next.
    Hot,
    /// Used last.
    Cold,
}

/// All lists of a zone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FreeLists {
    lists: [[FreeList; ORDERS]; 2],
    /// Orders whose list is not empty, by mobility.
    nonempty: [u16; 2],
}

impl FreeLists {
    #[inline(always)]
    pub fn of(&self, mobility: Mobility, order: u8) -> FreeList {
        self.lists[mobility as usize][order as usize]
    }

    /// The orders from `order` on whose list is not empty, as bits.
    #[inline(always)]
    pub fn orders(&self, mobility: Mobility, order: u8) -> u16 {
        self.nonempty[mobility as usize] >> order << order
    }

    /// Puts a free block on its list (`__add_to_free_list`).
    #[inline]
    pub fn push(&mut self, d: &mut Descriptors, frame: u64, order: u8, mobility: Mobility, end: End) {
        let list = &mut self.lists[mobility as usize][order as usize];
        list.len += 1;
        if list.len > 1 {
            return Self::link(list, d, frame, order, end);
        }
        // The common case while a large block is split or merged: no other word changes.
        list.head = frame;
        self.nonempty[mobility as usize] |= 1 << order;
        d.set_head(frame, order, Word::free(order, frame, frame));
    }

    #[inline(never)]
    fn link(list: &mut FreeList, d: &mut Descriptors, frame: u64, order: u8, end: End) {
        let first = list.head;
        let word = d.head(first, order);
        let last = word.prev();
        d.set_head(first, order, word.with_prev(frame));
        // First and last may be one block: its word is read again.
        let word = d.head(last, order);
        d.set_head(last, order, word.with_next(frame));
        d.set_head(frame, order, Word::free(order, first, last));
        if end == End::Hot {
            list.head = frame;
        }
    }

    /// Takes a free block off its list (`__del_page_from_free_list`). Its words stay as they are.
    #[inline]
    pub fn unlink(&mut self, d: &mut Descriptors, frame: u64, order: u8, mobility: Mobility) {
        let list = &mut self.lists[mobility as usize][order as usize];
        list.len -= 1;
        if list.len > 0 {
            return Self::unlink_from(list, d, frame, order);
        }
        self.nonempty[mobility as usize] &= !(1 << order);
    }

    #[inline(never)]
    fn unlink_from(list: &mut FreeList, d: &mut Descriptors, frame: u64, order: u8) {
        let word = d.head(frame, order);
        let (next, prev) = (word.next(), word.prev());
        let word = d.head(next, order);
        d.set_head(next, order, word.with_prev(prev));
        let word = d.head(prev, order);
        d.set_head(prev, order, word.with_next(next));
        if list.head == frame {
            list.head = next;
        }
    }
}
