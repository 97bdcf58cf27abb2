//! How fast accesses are generated: `cargo bench -p workloads [-- NAME…]`.
//!
//! Prints, for each workload with its defaults and for some at the papers'
//! sizes, the median and the best of 64 runs of half a million accesses: short
//! enough that on a busy machine some run undisturbed, and spread over a
//! workload's phases. A name may be a workload with parameters:
//! `cargo bench -p workloads -- gups:footprint=64GiB`.

use std::hint::black_box;
use std::time::Instant;

use machine::input::Block;

const PAPERS: &[&str] =
    &["gups:footprint=64GiB", "chase:footprint=8GiB,granule=line", "zipf:footprint=16GiB"];

fn main() {
    // `cargo bench` passes flags of its own.
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mut specs: Vec<String> = workloads::list().iter().map(|w| w.name.to_string()).collect();
    specs.extend(PAPERS.iter().map(|s| s.to_string()));
    let specs = if named.is_empty() { specs } else { named };

    println!(
        "{:<44} {:>12} {:>10} {:>10} {:>10}",
        "workload", "M accesses/s", "median ns", "best ns", "start ms"
    );
    for spec in &specs {
        let began = Instant::now();
        let mut source = match workloads::build(spec, 1) {
            Ok(source) => source,
            Err(e) => {
                eprintln!("{e}");
                std::process::exit(2);
            }
        };
        black_box(source.setup().expect("the first call"));
        let start = began.elapsed().as_secs_f64() * 1e3;
        let mut block = Block::new();
        let mut runs: Vec<f64> = (0..64)
            .map(|_| {
                let began = Instant::now();
                let mut accesses = 0;
                while accesses < 500_000 {
                    source.fill(&mut block).expect("a workload does not end");
                    accesses += black_box(&block).accesses.len();
                }
                began.elapsed().as_secs_f64() * 1e9 / accesses as f64
            })
            .collect();
        runs.sort_by(f64::total_cmp);
        let (best, median) = (runs[0], runs[runs.len() / 2]);
        println!("{spec:<44} {:>12.0} {median:>10.2} {best:>10.2} {start:>10.2}", 1e3 / median);
    }
}
