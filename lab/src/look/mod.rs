//! Looking closer at an experiment than its outcome does: how it went over time, single walks, and
//! the tables as they lie in memory. None of it changes what is counted.

mod board;
mod counts;
mod series;
mod view;

pub use board::{Board, Standing};
pub use counts::Counts;
pub use series::{Interval, Series};
pub use view::{
    Entry, GuestLine, HostEntry, LeafTables, PageView, RegionView, SegmentView, StepView, View, WalkView,
};

pub(crate) use series::{Recording, Sample};

use machine::explain::Recorded;
use std::sync::Arc;

/// What is to be seen, besides the outcome.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Where the systems tell how far they are.
    pub board: Option<Arc<Board>>,
    /// Follow the walks of about so many pages under each system at the end, and look at the tables.
    pub pages: Option<usize>,
    /// Record so many walks of each core from the end of the warm-up on.
    pub walks: usize,
}

/// What was seen of one system.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// How it went.
    pub series: Series,
    /// Tables and walks at the end, if they were asked for.
    pub view: Option<View>,
    /// Recorded walks by core.
    pub walks: Vec<Vec<Recorded>>,
    /// Clock in MHz, to tell times from cycles.
    pub mhz: u64,
}
