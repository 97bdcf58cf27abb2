//! The slow route, and the two routes against each other.

mod common;

use machine::input::{Block, Kind, More, Source};
use trace::capture::{CaptureError, CaptureOptions, Fetches, Route, Start};

/// Kinds and pages of a command's accesses; `None`, said aloud, where there is no Valgrind.
fn run(command: &[&str], options: CaptureOptions) -> Option<(Vec<u64>, usize, trace::capture::Summary)> {
    let args: Vec<_> = command[1..].iter().map(std::ffi::OsString::from).collect();
    let mut source = match trace::capture::start(command[0].as_ref(), &args, options) {
        Ok(source) => source,
        Err(error @ (CaptureError::NoValgrind | CaptureError::NoEmulator)) => {
            return common::skip(&error.to_string());
        }
        Err(error) => panic!("{error}"),
    };
    source.setup().unwrap();
    let (mut kinds, mut pages) = (vec![0; 4], Vec::new());
    let mut block = Block::new();
    loop {
        let more = source.fill(&mut block).unwrap();
        for access in &block.accesses {
            kinds[access.kind as usize] += 1;
            if access.kind != Kind::Fetch {
                pages.push(access.va.raw() >> 12);
            }
        }
        if more == More::No {
            break;
        }
    }
    pages.sort_unstable();
    pages.dedup();
    Some((kinds, pages.len(), source.finish().unwrap()))
}

fn lackey() -> CaptureOptions {
    CaptureOptions { route: Route::Lackey, ..CaptureOptions::default() }
}

#[test]
fn both_routes_see_about_the_same_of_true() {
    let Some((kinds, pages, summary)) = run(&["/bin/true"], lackey()) else { return };
    assert!(summary.status.success());
    assert_eq!((summary.lost(), summary.delivered), (0, kinds.iter().sum()));
    assert_eq!(kinds[Kind::Fetch as usize], 0);
    let Some((other_kinds, other_pages, _)) = run(&["/bin/true"], CaptureOptions::default()) else { return };
    // Measured on Debian 12: 39.6 k and 35.7 k accesses, 78 and 73 pages; the dynamic linker finds another
    // processor and takes other ways.
    let near = |a: u64, b: u64| a.abs_diff(b) * 3 < a.max(b);
    for kind in [Kind::Read, Kind::Write] {
        assert!(near(kinds[kind as usize], other_kinds[kind as usize]), "{kinds:?} {other_kinds:?}");
    }
    assert!(near(pages as u64, other_pages as u64), "{pages} {other_pages}");
}

#[test]
fn fetches_regions_and_limits_are_those_of_the_other_route() {
    let options = CaptureOptions { fetches: Fetches::Lines, ..lackey() };
    let Some((kinds, ..)) = run(&["/bin/true"], options) else { return };
    assert!(kinds[Kind::Fetch as usize] > 50_000);
    let options = CaptureOptions { start: Start::After(12_345), limit: Some(4_321), ..lackey() };
    let (.., summary) = run(&["/bin/true"], options).unwrap();
    assert_eq!((summary.skipped, summary.delivered, summary.lost()), (12_345, 4_321, 0));
    assert!(summary.status.success(), "the program runs to its end: {summary:?}");
    let symbol = CaptureOptions { start: Start::Symbol("main".into()), ..lackey() };
    assert!(matches!(
        trace::capture::start("/bin/true".as_ref(), &[], symbol),
        Err(CaptureError::LackeySymbol)
    ));
}

#[test]
fn a_programs_status_passes_through_valgrind() {
    let Some((.., summary)) = run(&["sh", "-c", "exit 7"], lackey()) else { return };
    assert_eq!(summary.status.code(), Some(7));
}
