//! How fast accesses are generated: `cargo bench -p workloads [-- NAME…]`.
//!
//! Prints, for each workload with its defaults and for some at the papers'
//! sizes, the best of five runs of about 20 million accesses. A name may be a
//! workload with parameters: `cargo bench -p workloads -- gups:footprint=64GiB`.

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

    println!("{:<44} {:>12} {:>10} {:>10}", "workload", "M accesses/s", "ns each", "start ms");
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
        let start = began.elapsed();
        let mut block = Block::new();
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let began = Instant::now();
            let mut accesses = 0;
            while accesses < 20_000_000 {
                source.fill(&mut block).expect("a workload does not end");
                accesses += black_box(&block).accesses.len();
            }
            best = best.min(began.elapsed().as_secs_f64() / accesses as f64);
        }
        println!("{spec:<44} {:>12.0} {:>10.2} {:>10.2}", 1e-6 / best, best * 1e9, start.as_secs_f64() * 1e3);
    }
}
