//! Rows of published numbers beside ours, and the rule by which each is judged.

use serde::Serialize;

/// What a number is, which decides how it is written and compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A ratio of runtimes or sizes; 1 is no effect.
    Ratio,
    /// A change, as a share of what was before; 0 is no effect.
    Change,
    /// A share of cycles, or of what is counted; published in whole per cents.
    Share,
    /// A share of memory.
    Memory,
    /// Cycles.
    Cycles,
    /// Nanoseconds.
    Nanoseconds,
    /// A mean of counts.
    Mean,
    /// What can be counted, and must be the same.
    Exact,
    /// Megabytes.
    Megabytes,
}

/// The change from `a` to `b`, as a share of `a`.
pub fn change(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { b / a - 1.0 }
}

/// How near ours is to what was published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within [`NEAR`], or within the bound that was published.
    Near,
    /// Not near, but on the right side of every other row of its group and of no effect.
    Order,
    /// Neither.
    Differs,
}

impl Verdict {
    /// All, the best first.
    pub const ALL: [Verdict; 3] = [Verdict::Near, Verdict::Order, Verdict::Differs];

    /// In words.
    pub fn says(self) -> &'static str {
        match self {
            Verdict::Near => "within 15 %",
            Verdict::Order => "right order",
            Verdict::Differs => "differs",
        }
    }
}

/// Ours may be off by this share of what was published and still be near.
pub const NEAR: f64 = 0.15;
/// The same of shares and changes, in points, where 15 % of the number itself is less.
const POINTS: [f64; 2] = [0.02, 0.01];
/// Two published numbers this near are not told apart: the papers call differences of less noise.
const NOISE: f64 = 0.05;
/// The same of changes, in points: means of many runs.
const NOISE_OF_CHANGE: f64 = 0.01;
/// Less than this share of a published effect is no effect.
const LEAST: f64 = 0.2;

/// A published number and ours.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Rows of one group have an order: one workload under several systems.
    pub group: String,
    /// What it is of.
    pub what: String,
    /// What kind of number.
    pub unit: Unit,
    /// The paper's.
    pub paper: f64,
    /// The paper's is a bound: ours must not exceed it.
    pub bound: bool,
    /// How far to trust the paper's, by the tags of [`TRUST`].
    pub trust: &'static str,
    /// Ours.
    pub ours: f64,
    /// How they compare; see [`judge`].
    pub verdict: Verdict,
}

/// How far to trust what stands in the column of the paper.
pub const TRUST: [(&str, &str); 9] = [
    (
        "F:AE-M, F:AE-V",
        "reference data that the authors published with the artifacts of Mitosis and vMitosis",
    ),
    ("F:TPT", "the authors' published code and its notes"),
    ("F:abs", "the paper's own abstract"),
    ("F:talk", "the authors' talk"),
    ("F:KW", "a third party's summary"),
    ("D", "derived by arithmetic from one of the above"),
    ("M-h, M-m, M-l", "recalled, with high, medium or low confidence, and not confirmed"),
    ("HW", "measured on hardware, not by a paper"),
    ("def", "what the design says must be"),
];

impl Row {
    /// A row, not judged yet.
    pub fn new(
        group: impl Into<String>,
        what: impl Into<String>,
        unit: Unit,
        (paper, trust): (f64, &'static str),
        ours: f64,
    ) -> Row {
        let (group, what) = (group.into(), what.into());
        Row { group, what, unit, paper, bound: false, trust, ours, verdict: Verdict::Differs }
    }

    /// The paper's is a bound.
    #[must_use]
    pub fn at_most(mut self) -> Row {
        self.bound = true;
        self
    }

    /// How far off ours is: a share of the paper's, or points of shares and changes.
    pub fn difference(&self) -> f64 {
        match self.unit {
            Unit::Share | Unit::Change => self.ours - self.paper,
            _ if self.paper == self.ours => 0.0,
            _ => self.ours / self.paper - 1.0,
        }
    }

    /// Whether the numbers are near each other.
    fn is_near(&self) -> bool {
        let off = (self.ours - self.paper).abs();
        let near = NEAR * self.paper.abs();
        match self.unit {
            Unit::Exact => off < 1e-9,
            Unit::Share => off <= near.max(POINTS[0]),
            Unit::Change => off <= near.max(POINTS[1]),
            _ => off <= near,
        }
    }

    /// What the number would be if there were no effect.
    fn neutral(&self) -> Option<f64> {
        match self.unit {
            Unit::Ratio => Some(1.0),
            Unit::Change => Some(0.0),
            _ => None,
        }
    }

    /// Whether two published numbers of this unit differ by more than noise.
    fn apart(&self, other: f64) -> bool {
        match self.unit {
            Unit::Change => (self.paper - other).abs() > NOISE_OF_CHANGE,
            Unit::Share => (self.paper - other).abs() > NOISE,
            _ => (self.paper / other).ln().abs() > NOISE,
        }
    }

    /// Whether there is the published effect, or a part of it that can be seen.
    fn has_effect(&self) -> bool {
        let Some(neutral) = self.neutral().filter(|neutral| self.apart(*neutral)) else { return true };
        (self.ours - neutral) / (self.paper - neutral) >= LEAST
    }

    /// Whether ours lies to `other`'s as the published ones do, as far as those can be told apart.
    fn is_in_order_with(&self, other: &Row) -> bool {
        !self.apart(other.paper) || (self.paper < other.paper) == (self.ours < other.ours)
    }
}

/// Judges each row of a table.
///
/// Near: within [`NEAR`] of the published number (shares and changes: or two points, or one), and if
/// that differs from no effect by more than noise, at least a fifth of the effect is there. Order: the effect is
/// there, and among the rows of the group that the published numbers tell apart all are in their order.
/// A bound is kept or not.
pub fn judge(rows: &mut [Row]) {
    let verdict = |row: &Row| {
        if row.bound {
            return if row.ours <= row.paper { Verdict::Near } else { Verdict::Differs };
        }
        let is_ordered = || {
            let group = || rows.iter().filter(|o| o.group == row.group && o.unit == row.unit && !o.bound);
            let tells = group().any(|o| row.apart(o.paper)) || row.neutral().is_some_and(|n| row.apart(n));
            tells && group().all(|o| row.is_in_order_with(o))
        };
        match row.has_effect() {
            true if row.is_near() => Verdict::Near,
            true if row.unit != Unit::Exact && is_ordered() => Verdict::Order,
            _ => Verdict::Differs,
        }
    };
    let verdicts: Vec<Verdict> = rows.iter().map(verdict).collect();
    rows.iter_mut().zip(verdicts).for_each(|(row, verdict)| row.verdict = verdict);
}

impl Row {
    /// A number of this row's kind, as people read it.
    pub fn text(&self, value: f64) -> String {
        match self.unit {
            Unit::Ratio | Unit::Mean => format!("{value:.2}"),
            Unit::Change => format!("{:+.1} %", 100.0 * value),
            Unit::Memory => format!("{:.3} %", 100.0 * value),
            Unit::Share => format!("{:.0} %", 100.0 * value),
            Unit::Cycles => format!("{value:.0} cycles"),
            Unit::Nanoseconds => format!("{value:.1} ns"),
            Unit::Exact => format!("{value}"),
            Unit::Megabytes => format!("{value:.0} MB"),
        }
    }

    /// The difference, as people read it.
    pub fn difference_text(&self) -> String {
        match self.unit {
            Unit::Share | Unit::Change => format!("{:+.1} points", 100.0 * self.difference()),
            _ => format!("{:+.0} %", 100.0 * self.difference()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(unit: Unit, pairs: &[(f64, f64)]) -> Vec<Verdict> {
        let mut rows: Vec<Row> =
            pairs.iter().map(|(paper, ours)| Row::new("g", "", unit, (*paper, "D"), *ours)).collect();
        judge(&mut rows);
        rows.iter().map(|row| row.verdict).collect()
    }

    #[test]
    fn a_number_is_near_in_order_or_neither() {
        use Verdict::*;
        assert_eq!(verdicts(Unit::Ratio, &[(3.0, 3.4), (2.0, 2.4), (1.5, 1.05)]), [Near, Order, Differs]);
        // 1.11 of 1.5 is a fifth of the effect, and right of its neighbours; 1.09 is not.
        assert_eq!(verdicts(Unit::Ratio, &[(3.0, 3.4), (1.5, 1.11)]), [Near, Order]);
        assert_eq!(verdicts(Unit::Ratio, &[(1.5, 1.09)]), [Differs]);
        // Two that are the wrong way round are both wrong unless they are near.
        assert_eq!(verdicts(Unit::Ratio, &[(3.0, 2.0), (2.0, 2.5)]), [Differs, Differs]);
        assert_eq!(verdicts(Unit::Cycles, &[(100.0, 110.0), (50.0, 60.0)]), [Near, Order]);
        assert_eq!(verdicts(Unit::Cycles, &[(100.0, 150.0)]), [Differs]);
    }

    #[test]
    fn an_effect_that_is_not_there_differs_however_near() {
        use Verdict::*;
        assert_eq!(verdicts(Unit::Ratio, &[(1.1, 1.0)]), [Differs]);
        assert_eq!(verdicts(Unit::Ratio, &[(1.04, 1.0)]), [Near]);
        assert_eq!(verdicts(Unit::Change, &[(-0.11, -0.005)]), [Differs]);
        assert_eq!(verdicts(Unit::Change, &[(-0.55, -0.12)]), [Order]);
        assert_eq!(verdicts(Unit::Change, &[(-0.08, -0.085)]), [Near]);
        assert_eq!(verdicts(Unit::Change, &[(0.02, 0.01)]), [Near]);
    }

    #[test]
    fn bounds_and_counts() {
        use Verdict::*;
        let mut rows = vec![
            Row::new("", "", Unit::Share, (0.002, "D"), 0.001).at_most(),
            Row::new("", "", Unit::Share, (0.002, "D"), 0.003).at_most(),
            Row::new("", "", Unit::Exact, (24.0, "D"), 24.0),
            Row::new("", "", Unit::Exact, (24.0, "D"), 23.0),
        ];
        judge(&mut rows);
        assert_eq!(rows.iter().map(|r| r.verdict).collect::<Vec<_>>(), [Near, Differs, Near, Differs]);
        assert_eq!(rows[3].difference(), 23.0 / 24.0 - 1.0);
    }
}
