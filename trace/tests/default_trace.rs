//! The trace in `data/` is what its README says.

mod common;

use std::collections::HashSet;
use std::path::Path;

use common::World;
use machine::input::{Block, Kind, More, Populate};
use trace::OpenOptions;

#[test]
fn the_default_trace_is_as_described() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/redis-mget.parquet");
    assert!(std::fs::metadata(&path).unwrap().len() <= 6 << 20);
    let mut source = trace::open(&path, &OpenOptions::default()).unwrap();
    let setup = source.setup().unwrap();
    assert_eq!((setup.processes.len(), setup.processes[0].name.as_str()), (1, "redis-server"));
    let filled: u64 =
        setup.processes[0].regions.iter().filter(|r| r.populate == Populate::By(0)).map(|r| r.len).sum();
    assert!(filled > 480 << 20, "its data is in memory before it begins: {filled}");
    let mut world = World::new(&setup);
    let (mut pages, mut instructions, mut accesses, mut writes) = (HashSet::new(), 0, 0, 0);
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block).unwrap();
        for access in &block.accesses {
            world.check(access, accesses);
            pages.insert(access.va.raw() >> 12);
            instructions += access.insns as u64;
            writes += access.kind.writes() as usize;
            assert!(access.kind != Kind::Fetch);
            accesses += 1;
        }
        block.events.iter().for_each(|event| world.apply(event));
        if more == More::No {
            break;
        }
    }
    assert_eq!((accesses, pages.len()), (8_000_000, 37_915));
    assert!((19_000_000..20_000_000).contains(&instructions), "{instructions}");
    assert!((accesses / 4..accesses / 2).contains(&writes), "{writes}");
}
