//! From a lane into a page of a trace, without an access in between.

use capture_ring::Record;
use machine::input::Event;

use super::known::{self, Entries};
use super::merge::{Lane, Natives, Sink};
use super::rebase::Lookup;
use crate::parquet::rows::{Columns, PAGE, Rest, Rows, code, fits};

/// A page that is being filled.
pub(super) struct PageSink<'a> {
    rows: &'a mut Rows,
    /// Rows that it had.
    begun: usize,
    events: &'a mut Vec<Event>,
}

impl PageSink<'_> {
    pub fn new<'a>(rows: &'a mut Rows, events: &'a mut Vec<Event>) -> PageSink<'a> {
        let begun = rows.len();
        PageSink { rows, begun, events }
    }
}

impl Sink for PageSink<'_> {
    fn room(&self) -> usize {
        self.rows.room()
    }
    fn is_empty(&self) -> bool {
        self.rows.len() == self.begun
    }
    fn events(&mut self) -> &mut Vec<Event> {
        self.events
    }
    fn take(&mut self, lane: Lane<'_>, records: usize) -> (usize, usize) {
        let before = self.rows.len();
        let accesses = if self.rows.is_plain() {
            addresses(self.rows, lane, records)
        } else {
            places(self.rows, lane, records)
        };
        (accesses, self.rows.len() - before)
    }
}

/// Takes records as places; how many accesses they were.
#[inline(never)]
fn places(rows: &mut Rows, lane: Lane<'_>, records: usize) -> usize {
    let Lane { shared, reader, thread, known, lookup, mut natives, .. } = lane;
    let entries = known.of(rows.dictionary());
    let mut accesses = 0;
    rows.fill(thread, |begun, columns, rest| {
        let Columns { addresses, codes, long } = columns;
        let (n, end) = reader.fold(shared, records, begun, |row, record: Record, insns| {
            let guest = record.va();
            let place = match known::find(entries, guest) {
                Some(place) => place,
                None => match look_up(entries, lookup, &mut natives, rest, guest, row) {
                    Some(place) => place,
                    None => return row,
                },
            };
            addresses[row % PAGE] = place;
            codes[row % PAGE] = code(insns, record.kind(), record.size_log2());
            if !fits(insns) {
                long.push((row, insns));
            }
            row + 1
        });
        accesses = n;
        end
    });
    accesses
}

/// The place of an address in this row; any once the dictionary has not room for it. `None` if the access is not the
/// program's.
#[inline(never)]
fn look_up(
    entries: &mut Entries,
    lookup: &mut Lookup,
    natives: &mut Natives<'_>,
    rest: &mut Rest<'_>,
    guest: u64,
    row: usize,
) -> Option<u16> {
    let va = lookup.recent(guest).or_else(|| natives.look_up(lookup, guest))?;
    let Some(place) = rest.place(row, va) else {
        // From here on all are to come here.
        known::clear(entries);
        return Some(0);
    };
    known::learn(entries, guest, place);
    Some(place)
}

/// Takes records as addresses; how many accesses they were.
#[inline(never)]
fn addresses(rows: &mut Rows, lane: Lane<'_>, records: usize) -> usize {
    let Lane { shared, reader, thread, lookup, mut natives, .. } = lane;
    let mut accesses = 0;
    rows.fill_plain(thread, |begun, Columns { addresses, codes, long }| {
        let (n, end) = reader.fold(shared, records, begun, |row, record: Record, insns| {
            let va = match lookup.recent(record.va()) {
                Some(va) => va,
                None => match natives.look_up(lookup, record.va()) {
                    Some(va) => va,
                    None => return row,
                },
            };
            addresses[row % PAGE] = va;
            codes[row % PAGE] = code(insns, record.kind(), record.size_log2());
            if !fits(insns) {
                long.push((row, insns));
            }
            row + 1
        });
        accesses = n;
        end
    });
    accesses
}
