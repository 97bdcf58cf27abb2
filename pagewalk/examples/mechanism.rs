//! Writes a mechanism: frames that continue where the page before ended.
//!
//! Programs that fault in turn get frames in turn, so neighbouring pages lie apart. This mechanism asks for the frame
//! after that of the page before, if it is free, as contiguity-aware allocators do (CA paging, ISCA 2020). It is
//! an implementation of one seam, [`FrameSource`]; the kernel around it is the one that `pagewalk` runs.
//!
//! `cargo run --release --example mechanism`

use pagewalk::os::{
    Cost, FileId, Hardware, Kernel, KernelConfig, MapRequest, ProcessId, ProcessSpec, RootLoad, Shootdown,
    SingleTables, SpaceId,
};
use pagewalk::paging::frames::{CpuId, Layout, NodeId, PoolConfig, Unit};
use pagewalk::paging::{
    Arena, Frame, FramePool, FrameRequest, FrameSource, FromBuddy, Hfn, HostPhys, Intent, NoFrame, PhysSpace,
    Va, Work,
};
use std::collections::HashMap;

/// The mechanism: for each address space, the last page that got a frame and that frame.
#[derive(Debug, Default)]
struct Continue {
    last: HashMap<u32, (u64, u64)>,
}

impl<S: PhysSpace> FrameSource<S> for Continue {
    fn frame(&mut self, pool: &mut FramePool<S>, request: &FrameRequest) -> Result<Frame<S>, NoFrame> {
        if request.order > 0 {
            return pool.alloc(request.to_pool());
        }
        let wanted = self.last.get(&request.space).and_then(|(page, frame)| {
            // As far beyond the last frame as the page is beyond the last page.
            frame.checked_add(request.page.checked_sub(*page)?)
        });
        let got = wanted.map(Frame::new).filter(|frame| {
            pool.node_of(*frame) == request.node
                && pool.alloc_at(*frame, 1, request.state, Unit::Singles).is_ok()
        });
        let frame = match got {
            Some(frame) => frame,
            // Somewhere with room behind it: in a 2 MiB block that nobody has begun.
            None => {
                let block = pool.alloc(request_of_a_block(request));
                match block {
                    Ok(first) => {
                        // The others are free again, until this space asks for them.
                        (1..BLOCK).for_each(|at| pool.free(Frame::new(first.number() + at), 0, None));
                        first
                    }
                    Err(_) => pool.alloc(request.to_pool())?,
                }
            }
        };
        self.last.insert(request.space, (request.page, frame.number()));
        Ok(frame)
    }

    fn exited(&mut self, _: &mut FramePool<S>, space: u32) {
        self.last.remove(&space);
    }
}

/// Frames of a block.
const BLOCK: u64 = 512;

fn request_of_a_block(request: &FrameRequest) -> pagewalk::paging::frames::AllocRequest {
    let mut wanted = request.to_pool();
    (wanted.order, wanted.unit) = (9, Unit::Singles);
    wanted
}

/// A machine that does nothing: only where frames lie is looked at here.
struct Nothing;

impl Hardware<HostPhys> for Nothing {
    fn load_root(&mut self, _: CpuId, _: &RootLoad<HostPhys>) {}
    fn shootdown(&mut self, _: CpuId, _: &Shootdown<'_>) {}
    fn flush_space(&mut self, _: CpuId, _: SpaceId) {}
    fn zero(&mut self, _: CpuId, _: Hfn, _: u8) {}
    fn copy(&mut self, _: CpuId, _: Hfn, _: Hfn, _: u8) {}
    fn file_read(&mut self, _: CpuId, _: FileId, _: u64, _: Hfn) {}
    fn file_write(&mut self, _: CpuId, _: FileId, _: u64, _: Hfn) {}
    fn swap_out(&mut self, _: CpuId, _: Hfn, _: u64) {}
    fn swap_in(&mut self, _: CpuId, _: u64, _: Hfn) {}
    fn charge(&mut self, _: CpuId, _: Cost, _: &Work) {}
}

const PROCESSES: usize = 4;
const PAGES: u64 = 4096;

/// Programs fault in turn, each on a CPU of its own; mean pages of a run of neighbours that have neighbouring frames.
fn mean_run(source: Box<dyn FrameSource<HostPhys>>) -> Result<f64, Box<dyn std::error::Error>> {
    let layout = Layout::pc(&[1 << 30]);
    let pool = FramePool::new(&layout, PoolConfig::default())?;
    let config = KernelConfig::new(vec![NodeId(0); PROCESSES]);
    let hw = &mut Nothing;
    let tables = Box::new(SingleTables::default());
    let mut kernel = Kernel::new(config, pool, Arena::new(layout.end()), source, tables, hw)?;
    let mut programs: Vec<(CpuId, ProcessId, Va)> = Vec::new();
    for cpu in (0..PROCESSES as u16).map(CpuId) {
        let pid = kernel.create_process(hw, cpu, ProcessSpec::default())?;
        let area = kernel.mmap(hw, cpu, pid, &MapRequest::anonymous(PAGES << 12))?;
        kernel.switch_to(hw, cpu, pid)?;
        programs.push((cpu, pid, area));
    }
    for page in 0..PAGES {
        for (cpu, pid, area) in &programs {
            kernel.fault(hw, *cpu, *pid, area.offset(page << 12), Intent::WRITE)?;
        }
    }
    let mut runs = 0;
    for (_, pid, area) in &programs {
        let mut before = None;
        for page in 0..PAGES {
            let entry = kernel.entry_of(*pid, area.offset(page << 12))?.entry;
            let frame = entry.frame::<HostPhys>().number();
            runs += u64::from(before != Some(frame.wrapping_sub(1)));
            before = Some(frame);
        }
    }
    // Whoever ends gives everything back: the pool audits itself.
    let (pool, _) = kernel.shutdown(hw)?;
    assert_eq!(pool.audit()?.owned(), 0);
    Ok((PROCESSES as u64 * PAGES) as f64 / runs as f64)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let buddy = mean_run(Box::new(FromBuddy))?;
    let with = mean_run(Box::<Continue>::default())?;
    println!("{PROCESSES} programs fault {PAGES} pages each, in turn.");
    println!("Pages that follow each other in memory as they do in the program, on average:");
    println!("  {buddy:8.1} from the buddy allocator through the lists of the CPUs");
    println!("  {with:8.1} with the mechanism: what an offset or a larger TLB entry could cover");
    assert!(with > 4.0 * buddy, "{with} is not much more than {buddy}");
    Ok(())
}
