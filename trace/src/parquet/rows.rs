//! Rows on their way to the thread that encodes them, a page at a time.
//!
//! Four bytes a row where the page allows it (see [`Addresses`] and [`Small`]): the less there is, the less the other thread has to fetch
//! from this one's caches.

pub(crate) use super::groups::PAGE;
use super::places::{Addresses, Places};
use super::small::Small;
pub(crate) use super::small::{code, fits};
use machine::input::{Access, Event};

/// Rows, and what happens between them.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// What happens before the first row: on the first page only.
    pub(super) before: Vec<Event>,
    pub(super) rows: usize,
    pub(super) addresses: Addresses,
    pub(super) small: Small,
    /// Row in the page, and what happens after it.
    pub(super) events: Vec<(usize, Vec<Event>)>,
}

impl Page {
    /// With room for a page of rows.
    pub(super) fn new() -> Page {
        let mut page = Page::default();
        page.clear();
        page
    }

    /// Without rows, with room for a page of them.
    pub(super) fn clear(&mut self) {
        self.rows = 0;
        self.addresses.clear();
        self.small.clear();
        self.addresses.places.resize(PAGE, 0);
        self.small.codes.resize(PAGE, 0);
    }

    /// The list of what happens after the last row.
    pub(super) fn events_now(&mut self) -> &mut Vec<Event> {
        let Some(row) = self.rows.checked_sub(1) else { return &mut self.before };
        if self.events.last().is_none_or(|(last, _)| *last != row) {
            self.events.push((row, Vec::new()));
        }
        &mut self.events.last_mut().expect("pushed above").1
    }
}

/// The page that is being filled, and the dictionary of its row group.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(super) page: Page,
    places: Box<Places>,
    /// How many dictionaries there were before.
    dictionary: u64,
}

impl Rows {
    pub(super) fn new() -> Rows {
        Rows { page: Page::new(), places: Box::new(Places::new()), dictionary: 0 }
    }

    /// Begins another row group.
    pub(super) fn begin_group(&mut self) {
        self.places.clear();
        self.dictionary += 1;
    }

    /// How many rows the page has.
    pub(crate) fn len(&self) -> usize {
        self.page.rows
    }

    /// How many more rows it has room for.
    pub(crate) fn room(&self) -> usize {
        PAGE - self.page.rows
    }

    /// A number of the dictionary: places are others in another.
    pub(crate) fn dictionary(&self) -> u64 {
        self.dictionary
    }

    /// Appends accesses, for which there is room.
    pub(super) fn add(&mut self, accesses: &[Access]) {
        self.places.add(self.page.rows, accesses, &mut self.page.addresses);
        self.page.small.add(self.page.rows, accesses);
        self.page.rows += accesses.len();
    }

    /// Whether further rows have addresses as such: [`Rows::fill_plain`].
    pub(crate) fn is_plain(&self) -> bool {
        self.places.is_full()
    }

    /// Appends rows of a thread: `fill` gets the page's columns and how many rows there are, puts rows behind these, and
    /// returns how many there are now.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        thread: u16,
        fill: impl FnOnce(usize, Columns<'_, u16>, &mut Rest<'_>) -> usize,
    ) {
        let Rows { page: Page { rows, addresses, small, .. }, places, .. } = self;
        let (begun, known) = (*rows, places.len());
        let mut rest = Rest { places, plain: &mut addresses.plain, placed: None };
        let mut long = Vec::new();
        let columns = Columns {
            addresses: room(&mut addresses.places),
            codes: room(&mut small.codes),
            long: &mut long,
        };
        *rows = fill(begun, columns, &mut rest);
        let placed = rest.placed.unwrap_or(*rows);
        places.settle(known, placed, addresses);
        small.coded(begun..*rows, thread, &long);
    }

    /// As above, with addresses instead of their places.
    #[inline(always)]
    pub(crate) fn fill_plain(&mut self, thread: u16, fill: impl FnOnce(usize, Columns<'_, u64>) -> usize) {
        let Rows { page: Page { rows, addresses, small, .. }, places, .. } = self;
        let begun = *rows;
        places.settle(places.len(), begun, addresses);
        let mut long = Vec::new();
        let columns =
            Columns { addresses: room(&mut addresses.plain), codes: room(&mut small.codes), long: &mut long };
        *rows = fill(begun, columns);
        small.coded(begun..*rows, thread, &long);
    }
}

fn room<T>(column: &mut [T]) -> &mut [T; PAGE] {
    column.try_into().expect("a page of them")
}

/// The columns of a page, of one thread.
#[derive(Debug)]
pub(crate) struct Columns<'a, A> {
    /// Addresses, or their places.
    pub(crate) addresses: &'a mut [A; PAGE],
    /// The other columns of each row, see [`code`].
    pub(crate) codes: &'a mut [u16; PAGE],
    /// Rows whose instructions a code has not room for, and these instructions.
    pub(crate) long: &'a mut Vec<(usize, u16)>,
}

/// What is needed for a row whose place is not at hand.
#[derive(Debug)]
pub(crate) struct Rest<'a> {
    places: &'a mut Places,
    plain: &'a mut Vec<u64>,
    /// Rows before the first that has no place.
    placed: Option<usize>,
}

impl Rest<'_> {
    /// The place of an address; `None` if there was not room for it. From then on every row's address comes here.
    pub(crate) fn place(&mut self, row: usize, address: u64) -> Option<u16> {
        if self.placed.is_none() {
            if let Some(place) = self.places.place(address) {
                return Some(place);
            }
            self.placed = Some(row);
            self.plain.resize(PAGE, 0);
        }
        self.plain[row] = address;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::small::Column;
    use machine::input::Kind;
    use paging::Va;
    use proptest::prelude::*;

    const KINDS: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Fetch, Kind::Modify];

    /// One by one, as a captured program's are.
    fn fill(rows: &mut Rows, run: &[Access]) {
        let code = |a: &Access| code(a.insns, a.kind as u8, a.size_log2);
        let long = |row, a: &Access| (!fits(a.insns)).then_some((row, a.insns));
        if rows.is_plain() {
            return rows.fill_plain(run[0].thread, |begun, columns| {
                for (row, a) in (begun..).zip(run) {
                    (columns.addresses[row], columns.codes[row]) = (a.va.raw(), code(a));
                    columns.long.extend(long(row, a));
                }
                begun + run.len()
            });
        }
        rows.fill(run[0].thread, |begun, columns, rest| {
            for (row, a) in (begun..).zip(run) {
                columns.addresses[row] = rest.place(row, a.va.raw()).unwrap_or(0);
                columns.codes[row] = code(a);
                columns.long.extend(long(row, a));
            }
            begun + run.len()
        });
    }

    /// The addresses of a page, and its small columns.
    fn unpack(page: &Page, dictionary: &[u64]) -> (Vec<u64>, [Vec<u16>; 5]) {
        let addresses = if page.addresses.is_plain {
            page.addresses.plain[..page.rows].to_vec()
        } else {
            page.addresses.places[..page.rows].iter().map(|&place| dictionary[usize::from(place)]).collect()
        };
        let small = std::array::from_fn(|i| {
            if page.small.is_wide {
                let (shift, mask) = [(0, 0xffff), (16, 0xffff), (32, 0xff), (40, 0xff), (48, 0xff)][i];
                return page.small.words.iter().map(|word| (word >> shift & mask) as u16).collect();
            }
            match page.small.column(i, page.rows, &mut Default::default()) {
                Column::One(value) => vec![value.into(); page.rows],
                Column::Bytes(low, None) => low.iter().map(|&low| low.into()).collect(),
                Column::Bytes(low, Some(high)) => {
                    low.iter().zip(high).map(|(&low, &high)| u16::from_le_bytes([low, high])).collect()
                }
            }
        });
        (addresses, small)
    }

    fn access() -> impl Strategy<Value = Access> {
        let va = prop_oneof![0..500_u64, 0..1_u64 << 47];
        let insns = prop_oneof![60 => 0..300_u16, 1 => any::<u16>()];
        let flags = prop_oneof![60 => Just(0), 1 => any::<u8>()];
        let size = prop_oneof![60 => 0..8_u8, 1 => any::<u8>()];
        (va, insns, 0..4_usize, size, flags).prop_map(|(va, insns, kind, size_log2, flags)| Access {
            va: Va::new(va),
            insns,
            kind: KINDS[kind],
            size_log2,
            flags,
            ..Access::default()
        })
    }

    proptest! {
        /// Whichever way rows come, and whether or not they fit what is made for most.
        #[test]
        fn rows_come_back(
            pages in prop::collection::vec(
                prop::collection::vec((prop::collection::vec(access(), 1..200), 0..300_u16), 0..20),
                1..5,
            ),
        ) {
            let mut rows = Rows::new();
            let mut dictionary = Vec::new();
            for page in pages {
                let mut expected = Vec::new();
                for (mut run, thread) in page {
                    run.iter_mut().for_each(|a| a.thread = thread % 3 * thread);
                    expected.extend_from_slice(&run);
                    if run.iter().all(|a| a.flags == 0 && a.size_log2 < 8) && thread % 4 > 0 {
                        fill(&mut rows, &run);
                    } else {
                        rows.add(&run);
                    }
                }
                prop_assert_eq!(rows.len(), expected.len());
                prop_assert_eq!(rows.room(), PAGE - expected.len());
                dictionary.extend_from_slice(&rows.page.addresses.new);
                let (addresses, small) = unpack(&rows.page, &dictionary);
                prop_assert_eq!(addresses, expected.iter().map(|a| a.va.raw()).collect::<Vec<_>>());
                let column = |of: fn(&Access) -> u16| expected.iter().map(of).collect::<Vec<_>>();
                prop_assert_eq!(&small[0], &column(|a| a.insns));
                prop_assert_eq!(&small[1], &column(|a| a.thread));
                prop_assert_eq!(&small[2], &column(|a| a.kind as u16));
                prop_assert_eq!(&small[3], &column(|a| a.size_log2.into()));
                prop_assert_eq!(&small[4], &column(|a| a.flags.into()));
                rows.page.clear();
            }
        }
    }
}
