//! Both sides of the shared memory against each other: nothing lost, nothing
//! out of order, nothing believed that cannot be.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use capture_ring::{
    LANE_RECORDS, LANES, LaneReader, LaneWriter, LogReader, LogWriter, Message, Note, Record, Room, Shape,
    Shared,
};
use proptest::prelude::*;

fn memory() -> Shared {
    let (shared, _fd) = Shared::create().unwrap();
    shared.header().active.store(1, Ordering::Relaxed);
    shared
}

/// The `n`-th record of a lane: different for each.
fn record(lane: u64, n: u64) -> Record {
    Record::new(lane << 40 | n, Shape::new((n % 4) as u8, (n % 7) as u8), n % (Record::INSNS + 1))
}

#[test]
fn lanes_lose_nothing_though_they_are_full_most_of_the_time() {
    const PER_LANE: u64 = 5 * LANE_RECORDS as u64 + 77;
    let shared = memory();
    let lanes: Vec<usize> = (0..3).map(|_| shared.claim_lane().unwrap()).collect();
    std::thread::scope(|scope| {
        for &lane in &lanes {
            let writer = LaneWriter::new(&shared, lane);
            scope.spawn(move || {
                let mut limit = 0;
                for at in 0..PER_LANE {
                    if at == limit {
                        let Room::UpTo(room) = writer.room(at) else { panic!("stopped") };
                        assert!(room - at >= LANE_RECORDS as u64 / 4, "it is asked every few records");
                        limit = room;
                    }
                    writer.put(at, record(lane as u64, at));
                }
            });
        }
        let mut readers: Vec<LaneReader> = lanes.iter().map(|&l| LaneReader::new(&shared, l)).collect();
        while readers.iter().any(|r| r.tail() < PER_LANE) {
            for reader in &mut readers {
                let (lane, mut at) = (reader.index() as u64, reader.tail());
                let n = reader.look(&shared) as usize;
                let begun = at;
                let (accesses, ()) = reader.fold(&shared, n.min(1000), (), |(), got, insns| {
                    assert_eq!((got, insns), (record(lane, at), got.insns()));
                    at += 1;
                });
                assert_eq!((at, begun + accesses as u64), (reader.tail(), at));
            }
        }
    });
}

#[test]
fn a_message_sees_what_was_written_before_it() {
    // One thread writes a record and then logs its cut, many times; the reader finds for each cut
    // all records below it.
    let shared = memory();
    let (lane, log) = (shared.claim_lane().unwrap(), shared.claim_log().unwrap());
    const MESSAGES: u64 = 20_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (writer, logger) = (LaneWriter::new(&shared, lane), LogWriter::new(&shared, log));
            for n in 0..MESSAGES {
                assert!(matches!(writer.room(n), Room::UpTo(_)));
                writer.put(n, record(0, n));
                let cuts = vec![(lane as u32, shared.lane(lane).head.load(Ordering::Acquire))];
                logger.append(&Message { note: Note::Unmap { start: n, len: 1 }, cuts });
            }
        });
        let (mut reader, mut log) = (LaneReader::new(&shared, lane), LogReader::new(log));
        let mut messages = 0;
        while messages < MESSAGES {
            let Some(message) = log.next(&shared).unwrap() else { continue };
            assert_eq!(message.note, Note::Unmap { start: messages, len: 1 });
            let cut = message.cuts[0].1;
            assert_eq!(cut, messages + 1);
            while reader.tail() < cut {
                assert!(reader.look(&shared) > 0, "a record below the cut is missing");
                let n = reader.ready().min(cut - reader.tail());
                reader.fold(&shared, n as usize, (), |(), _, _| {});
            }
            messages += 1;
        }
    });
}

#[test]
fn another_process_opens_it_by_its_descriptor() {
    let (shared, fd) = Shared::create().unwrap();
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let other = Shared::open(&path).unwrap();
    other.set_error("first");
    other.set_error("second");
    assert_eq!(shared.error().as_deref(), Some("first"));
    assert!(Shared::open("/dev/null").is_err());
    assert!(Shared::open("/nowhere").is_err());
}

#[test]
fn a_record_is_what_it_was_made_of() {
    for va in [0, 8, 0x7fff_ffff_ffff, 0xffff_ffff_ff60_0000] {
        for (kind, size, insns) in [(0, 0, 0), (1, 3, 1), (2, 6, 77), (3, 4, Record::INSNS)] {
            let shape = Shape::new(kind, size);
            assert_eq!(Shape::from_bits(shape.bits()), shape);
            let record = Record::new(va, shape, insns);
            assert_eq!((record.va(), record.kind(), record.size_log2()), (va, kind, size));
            assert_eq!(u64::from(record.insns()), insns);
        }
    }
}

#[test]
fn gaps_count_for_the_next_access_and_are_none() {
    let shared = memory();
    let writer = LaneWriter::new(&shared, shared.claim_lane().unwrap());
    let mut reader = LaneReader::new(&shared, 0);
    let access = Record::new(0x1000, Shape::new(1, 3), 5);
    let records =
        [access, Record::gap(3000), access, Record::gap(u16::MAX), Record::gap(u16::MAX), access, access];
    records.iter().zip(0..).for_each(|(&record, at)| writer.put(at, record));
    assert_eq!(reader.accesses(&shared), (4, 4));
    let mut seen = Vec::new();
    // A gap and its access need not come at once.
    for (n, accesses) in [(2, 1), (2, 1), (3, 2)] {
        reader.look(&shared);
        let taken = reader.fold(&shared, n, 0, |taken, record, insns| {
            seen.push((record, insns));
            taken + 1
        });
        assert_eq!(taken, (accesses, accesses));
    }
    assert_eq!(seen, [(access, 5), (access, 3005), (access, u16::MAX), (access, 5)]);
    assert_eq!(reader.accesses(&shared), (4, 0));
    writer.put(7, access);
    assert_eq!(reader.accesses(&shared), (5, 1));
}

#[test]
fn lanes_are_given_once_and_given_back_empty() {
    let shared = memory();
    let all: Vec<usize> = std::iter::from_fn(|| shared.claim_lane()).collect();
    assert_eq!(all.len(), LANES);
    let writer = LaneWriter::new(&shared, all[7]);
    writer.put(0, record(7, 0));
    shared.free_lane(all[7]);
    assert_eq!(shared.claim_lane(), Some(all[7]));
    assert_eq!(LaneReader::new(&shared, all[7]).look(&shared), 0);
}

#[test]
fn recording_begins_and_ends_when_told() {
    let shared = memory();
    let writer = LaneWriter::new(&shared, shared.claim_lane().unwrap());
    shared.header().active.store(0, Ordering::Relaxed);
    assert_eq!(writer.room(0), Room::NotYet);
    shared.header().active.store(1, Ordering::Relaxed);
    assert_eq!(writer.room(0), Room::UpTo(LANE_RECORDS as u64));
    shared.header().stop.store(1, Ordering::Relaxed);
    assert_eq!(writer.room(0), Room::Over);
}

#[test]
fn a_writer_does_not_wait_for_a_dead_reader() {
    let shared = memory();
    // The process of a program that has ended and been waited for: nobody's number now.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    shared.header().consumer.store(child.id(), Ordering::Relaxed);
    let writer = LaneWriter::new(&shared, shared.claim_lane().unwrap());
    assert_eq!(writer.room(LANE_RECORDS as u64), Room::Over);
}

#[test]
fn what_a_program_overwrote_is_not_believed() {
    let shared = memory();
    let log = shared.claim_log().unwrap();
    for (first, head) in [(u64::MAX, 9), (9, 3), (8, 8), (200 << 32 | 8, 8), (0, 1)] {
        shared.words(log)[0].store(first, Ordering::Relaxed);
        shared.words(log)[1].store(u64::MAX, Ordering::Relaxed);
        shared.log(log).head.store(head, Ordering::Release);
        assert!(LogReader::new(log).next(&shared).is_err(), "{first:x} {head}");
    }
    let lane = shared.claim_lane().unwrap();
    shared.lane(lane).head.store(u64::MAX, Ordering::Relaxed);
    let mut reader = LaneReader::new(&shared, lane);
    assert_eq!(reader.look(&shared), LANE_RECORDS as u64, "no more than the lane holds");
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..100)
}

fn note() -> impl Strategy<Value = Note> {
    prop_oneof![
        (any::<(u64, u64)>(), text(), text()).prop_map(|(stack, path, maps)| Note::Image {
            stack,
            path,
            maps
        }),
        any::<u32>().prop_map(|lane| Note::ThreadStart { lane }),
        any::<u32>().prop_map(|lane| Note::ThreadEnd { lane }),
        (any::<[u64; 4]>(), any::<[u32; 2]>(), text()).prop_map(|(a, b, path)| Note::Map {
            start: a[0],
            hint: a[1],
            len: a[2],
            prot: b[0],
            flags: b[1],
            offset: a[3],
            path
        }),
        any::<[u64; 2]>().prop_map(|a| Note::Unmap { start: a[0], len: a[1] }),
        (any::<[u64; 2]>(), any::<u32>()).prop_map(|(a, prot)| Note::Protect {
            start: a[0],
            len: a[1],
            prot
        }),
        (any::<[u64; 2]>(), any::<u32>()).prop_map(|(a, advice)| Note::Advise {
            start: a[0],
            len: a[1],
            advice
        }),
        any::<u64>().prop_map(|end| Note::Brk { end }),
        (any::<[u64; 4]>(), any::<u32>()).prop_map(|(a, flags)| Note::Remap {
            old: a[0],
            old_len: a[1],
            new: a[2],
            new_len: a[3],
            flags
        }),
        any::<u32>().prop_map(|log| Note::Fork { log }),
        any::<u32>().prop_map(|log| Note::ForkFailed { log }),
        text().prop_map(|what| Note::Escape { what }),
    ]
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        messages in prop::collection::vec(
            (note(), prop::collection::vec(any::<(u32, u64)>(), 0..20)).prop_map(|(note, cuts)| Message { note, cuts }),
            1..50,
        )
    ) {
        let shared = memory();
        let log = shared.claim_log().unwrap();
        let writer = LogWriter::new(&shared, log);
        let mut reader = LogReader::new(log);
        // In batches that stay within the log, so that it wraps without a second thread.
        for batch in messages.chunks(7) {
            batch.iter().for_each(|m| writer.append(m));
            for message in batch {
                let read = reader.next(&shared).unwrap();
                prop_assert_eq!(read.as_ref(), Some(message));
            }
            prop_assert_eq!(reader.next(&shared).unwrap(), None);
        }
    }

    #[test]
    fn any_words_are_a_message_or_none(words in prop::collection::vec(any::<u64>(), 0..64)) {
        let _ = Message::decode(&words);
    }
}
