//! The axis of sharing: whether containers of one image share translations
//! (BabelFish), and which part of the mechanism is there.

use crate::numa::Replication;
use crate::system::{System, Translation};
use mechanisms::babelfish::Sharing;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where address space layouts of a group's members are made one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aslr {
    /// Each process has its own; offsets are added between the TLB levels (as evaluated in ISCA'20).
    #[default]
    Hardware,
    /// The kernel gives a group one layout.
    Software,
}

/// BabelFish, part by part. The published one by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Babelfish {
    /// Leaf tables are shared.
    pub tables: bool,
    /// TLB entries are shared.
    pub tlb: bool,
    /// TLB entries have the `PrivateCopy` mask.
    pub mask: bool,
    /// First-level TLBs share entries, too.
    pub first_level: bool,
    /// Layouts.
    pub aslr: Aslr,
}

impl Default for Babelfish {
    fn default() -> Self {
        Babelfish { tables: true, tlb: true, mask: true, first_level: false, aslr: Aslr::Hardware }
    }
}

/// `babelfish=WHAT`: tables, TLB, mask.
const PARTS: [(&str, [bool; 3]); 5] = [
    ("", [true, true, true]),
    ("tables", [true, false, false]),
    ("tlb", [false, true, true]),
    ("no-mask", [true, true, false]),
    ("tlb-no-mask", [false, true, false]),
];

impl Babelfish {
    /// The parts that `value` names.
    pub(crate) fn parse(value: &str) -> Result<Babelfish, String> {
        let found = PARTS.iter().find(|(name, _)| *name == value);
        let Some((_, [tables, tlb, mask])) = found else {
            return Err(format!("`{value}` is none of `tables`, `tlb`, `no-mask`, `tlb-no-mask`"));
        };
        Ok(Babelfish { tables: *tables, tlb: *tlb, mask: *mask, ..Babelfish::default() })
    }

    /// What the groups share.
    pub fn sharing(&self) -> Sharing {
        Sharing { tables: self.tables, tlb: self.tlb, mask: self.mask }
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !PARTS.iter().any(|(_, parts)| *parts == [self.tables, self.tlb, self.mask]) {
            return Err("BabelFish without tables and TLB entries shares nothing, and a mask is of TLB \
                        entries that are shared"
                .to_string());
        }
        if self.first_level && !self.tlb {
            return Err("`share-l1` is of TLB entries, and `babelfish=tables` shares none".to_string());
        }
        if self.first_level && self.aslr == Aslr::Hardware {
            return Err(format!("{}: add `aslr=software`", mechanisms::babelfish::FirstLevelNeedsOneLayout));
        }
        Ok(())
    }
}

impl fmt::Display for Babelfish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("+babelfish")?;
        match PARTS.iter().find(|(_, parts)| *parts == [self.tables, self.tlb, self.mask]) {
            Some(("", _)) | None => {}
            Some((name, _)) => write!(f, "={name}")?,
        }
        if self.aslr == Aslr::Software {
            f.write_str("+aslr=software")?;
        }
        if self.first_level {
            f.write_str("+share-l1")?;
        }
        Ok(())
    }
}

impl System {
    /// Refuses impossible sharing.
    pub(crate) fn check_sharing(&self) -> Result<(), String> {
        let Some(babelfish) = &self.babelfish else { return Ok(()) };
        babelfish.check()?;
        if self.translation.is_shadowed() {
            return Err("under shadow paging no walker sees the guest's tables, where the marks of shared \
                        translations are: `nested+babelfish`"
                .to_string());
        }
        if self.translation == Translation::PassThrough {
            return Err(
                "a leaf table that containers share is one table, and twins belong to one process: the \
                        walker of `passthrough` would see neither marks nor shared tables: `nested+babelfish`"
                    .to_string(),
            );
        }
        if self.translation.is_segmented() {
            return Err("a segment's translations are one process's own and carry no mark of it, so a TLB \
                        that is shared could serve them to others: babelfish is for `native` and `nested`"
                .to_string());
        }
        if matches!(self.kernel.replication, Replication::Lazy | Replication::Auto)
            || self.kernel.tables_follow
        {
            return Err("tables that a group shares are on their nodes from the start, and do not move: \
                        `mitosis` on all or some nodes, or none"
                .to_string());
        }
        Ok(())
    }
}
