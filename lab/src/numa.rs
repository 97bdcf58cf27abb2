//! The NUMA choices of a [`System`](crate::System): copies of page tables, and
//! who else uses the memory.

use mechanisms::mitosis::Policy;
use paging::NodeId;
use paging::frames::{MAX_NODES, NodeSet};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which CPUs walk page tables of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// All walk the same ones.
    #[default]
    Off,
    /// Those of every node (Mitosis).
    All,
    /// Those of these nodes, a bit each (`numactl --pgtablerepl`).
    Nodes(u8),
    /// Those of every node, filled when a walk finds them empty (Hydra).
    Lazy,
    /// Those of every node, while walks take long enough and go far enough.
    Auto,
    /// In a VM that is shown one node: those of every host node, of which the
    /// hypervisor tells (vMitosis NO-P).
    Told,
    /// The same, found from latencies between CPUs (vMitosis NO-F).
    Found,
}

impl Replication {
    /// What stands behind `mitosis=`.
    pub(crate) fn parse(value: &str) -> Result<Replication, String> {
        Ok(match value {
            "" | "all" => Replication::All,
            "lazy" => Replication::Lazy,
            "auto" => Replication::Auto,
            "no-p" => Replication::Told,
            "no-f" => Replication::Found,
            nodes => Replication::Nodes(mask(nodes).ok_or_else(|| {
                format!(
                    "`{nodes}` is neither `all`, `lazy`, `auto`, `no-p`, `no-f`, nor nodes such as `0-2,5`"
                )
            })?),
        })
    }

    /// The policy of the mechanism.
    pub(crate) fn policy(self) -> Policy {
        match self {
            Replication::Off => Policy::Off,
            Replication::All | Replication::Lazy | Replication::Told | Replication::Found => Policy::All,
            Replication::Nodes(mask) => Policy::Nodes(NodeSet(mask)),
            Replication::Auto => Policy::Auto,
        }
    }

    /// Whether it is for a VM that is shown one node.
    pub(crate) fn is_oblivious(self) -> bool {
        matches!(self, Replication::Told | Replication::Found)
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Replication::Off => f.write_str("off"),
            Replication::All => f.write_str("all"),
            Replication::Lazy => f.write_str("lazy"),
            Replication::Auto => f.write_str("auto"),
            Replication::Told => f.write_str("no-p"),
            Replication::Found => f.write_str("no-f"),
            Replication::Nodes(mask) => {
                for (i, node) in NodeSet(*mask).iter().enumerate() {
                    write!(f, "{}{}", if i > 0 { "," } else { "" }, node.0)?;
                }
                Ok(())
            }
        }
    }
}

/// `0-2,5` as bits.
fn mask(text: &str) -> Option<u8> {
    let mut mask = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u8>().ok()?, last.parse::<u8>().ok()?);
        if first > last || usize::from(last) >= MAX_NODES {
            return None;
        }
        (first..=last).for_each(|node| mask |= 1 << node);
    }
    Some(mask)
}

/// Others who use the memory of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interference {
    /// Whose memory.
    pub node: u8,
    /// Megabytes a second that they take; all that they can get if `None` (STREAM on every core).
    #[serde(default)]
    pub mb_s: Option<u32>,
}

impl Interference {
    /// What stands behind `interference=`: a node, and perhaps GB/s.
    pub(crate) fn parse(value: &str) -> Option<Interference> {
        let (node, rate) = value.split_once(':').map_or((value, None), |(n, rate)| (n, Some(rate)));
        let mb_s = match rate {
            None => None,
            Some(rate) => {
                let gb_s: f64 = rate.parse().ok().filter(|r| (0.001..=1e6).contains(r))?;
                Some((gb_s * 1000.0).round() as u32)
            }
        };
        Some(Interference { node: node.parse().ok()?, mb_s })
    }

    /// The node.
    pub(crate) fn node(self) -> NodeId {
        NodeId(self.node)
    }
}

impl fmt::Display for Interference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node)?;
        match self.mb_s {
            Some(mb_s) => write!(f, ":{}", f64::from(mb_s) / 1000.0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_and_written() {
        assert_eq!(Replication::parse("0-2,5"), Ok(Replication::Nodes(0b10_0111)));
        assert_eq!(Replication::parse("0-2,5").unwrap().to_string(), "0,1,2,5");
        for wrong in ["8", "2-1", "", "0,", "x", "0-9"] {
            assert_eq!(mask(wrong), None, "{wrong}");
        }
        assert!(Replication::parse("eager").unwrap_err().contains("`lazy`"));
    }

    #[test]
    fn interference_is_read_and_written() {
        for text in ["1", "3:12.5", "0:28"] {
            assert_eq!(Interference::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "x", "1:", "1:-3", "1:0", "300"] {
            assert_eq!(Interference::parse(wrong), None, "{wrong}");
        }
    }
}
