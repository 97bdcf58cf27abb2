//! What the papers' letters mean, as systems.

use crate::numa::{Interference, Replication};
use crate::system::{Pages, Placement, Side, System, Translation};

/// Where the program runs; what is remote is on the other one.
const HERE: u8 = 0;
const THERE: u8 = 1;

const LOADED: Option<Interference> = Some(Interference { node: THERE, mb_s: None });

fn strip<'a>(text: &'a str, letters: &str) -> (&'a str, bool) {
    text.strip_prefix(letters).map_or((text, false), |rest| (rest, true))
}

fn pages(huge: bool) -> Pages {
    if huge { Pages::Thp } else { Pages::Small }
}

/// Mitosis, figures 6 and 10: `[T](LP|RP[I])-(LD|RD[I])[+M]`: page table and
/// data local or remote, interference where the remote one is, huge pages, copies.
pub fn migration(config: &str) -> Option<System> {
    let (rest, huge) = strip(config, "T");
    let (rest, copies) = rest.strip_suffix("+M").map_or((rest, false), |rest| (rest, true));
    let (table, data) = rest.split_once('-')?;
    let side = |word: &str, kind: char| match word.strip_suffix('I').unwrap_or(word) {
        w if w.len() == 2 && w.ends_with(kind) && w.starts_with('L') => Some(HERE),
        w if w.len() == 2 && w.ends_with(kind) && w.starts_with('R') => Some(THERE),
        _ => None,
    };
    Some(System {
        kernel: Side {
            pages: pages(huge),
            tables_on: Some(side(table, 'P')?),
            placement: Placement::Fixed(side(data, 'D')?),
            replication: if copies { Replication::All } else { Replication::Off },
            ..Side::default()
        },
        interference: if table.ends_with('I') || data.ends_with('I') { LOADED } else { None },
        ..System::default()
    })
}

/// The kernel of a program on all sockets: `[T](F|I)[A]`.
fn on_sockets(config: &str) -> Option<Side> {
    let (rest, huge) = strip(config, "T");
    let (placement, balancing) = match rest {
        "F" => (Placement::FirstTouch, false),
        "FA" | "F-A" => (Placement::FirstTouch, true),
        "I" => (Placement::Interleave, false),
        _ => return None,
    };
    Some(Side { pages: pages(huge), placement, numa_balancing: balancing, ..Side::default() })
}

/// Mitosis, figure 9: `[T](F[-A]|I)[+M]`: first touch, with NUMA balancing,
/// or interleaved; huge pages; copies.
pub fn sockets(config: &str) -> Option<System> {
    let (rest, copies) = config.strip_suffix("+M").map_or((config, false), |rest| (rest, true));
    let mut kernel = on_sockets(rest)?;
    if copies {
        kernel.replication = Replication::All;
    }
    Some(System { kernel, spread: true, ..System::default() })
}

/// vMitosis, figures 1 and 3: `[T](L|R)(L|R)[I][E|G|M]`: the guest's table, then the VM's,
/// local or remote, interference where the remote one is, and which follow the data.
pub fn thin(config: &str) -> Option<System> {
    let (rest, huge) = strip(config, "T");
    let (rest, follow) = match rest.chars().last()? {
        'E' => (&rest[..rest.len() - 1], (false, true)),
        'G' => (&rest[..rest.len() - 1], (true, false)),
        'M' => (&rest[..rest.len() - 1], (true, true)),
        _ => (rest, (false, false)),
    };
    let (rest, loaded) = rest.strip_suffix('I').map_or((rest, false), |rest| (rest, true));
    let node = |letter| match letter {
        'L' => Some(HERE),
        'R' => Some(THERE),
        _ => None,
    };
    let letters: Vec<char> = rest.chars().collect();
    let &[guest, host] = letters.as_slice() else { return None };
    Some(System {
        translation: Translation::Nested,
        kernel: Side {
            pages: pages(huge),
            tables_on: Some(node(guest)?),
            placement: Placement::Fixed(HERE),
            tables_follow: follow.0,
            ..Side::default()
        },
        host: Side {
            pages: pages(huge),
            tables_on: Some(node(host)?),
            tables_follow: follow.1,
            ..Side::default()
        },
        vnuma: true,
        interference: if loaded { LOADED } else { None },
        ..System::default()
    })
}

/// vMitosis's side experiment: `[T](L|R)[I][M]` is the shadow table and whether it
/// follows the data, two letters are [`thin`].
pub fn shadow(config: &str) -> Option<System> {
    if let Some(nested) = thin(config) {
        return Some(nested);
    }
    let (rest, huge) = strip(config, "T");
    let (rest, follow) = rest.strip_suffix('M').map_or((rest, false), |rest| (rest, true));
    let (rest, loaded) = rest.strip_suffix('I').map_or((rest, false), |rest| (rest, true));
    let table = match rest {
        "L" => HERE,
        "R" => THERE,
        _ => return None,
    };
    let pages = pages(huge);
    Some(System {
        translation: Translation::Shadow,
        kernel: Side { pages, placement: Placement::Fixed(HERE), ..Side::default() },
        host: Side { pages, tables_on: Some(table), tables_follow: follow, ..Side::default() },
        vnuma: true,
        interference: if loaded { LOADED } else { None },
        ..System::default()
    })
}

/// vMitosis, figure 4: `[T](F[A]|I)[M]` in a guest that sees the nodes.
pub fn wide(config: &str) -> Option<System> {
    let (rest, copies) = config.strip_suffix('M').map_or((config, false), |rest| (rest, true));
    let mut kernel = on_sockets(rest)?;
    let mut host = Side { pages: kernel.pages, ..Side::default() };
    if copies {
        (kernel.replication, host.replication) = (Replication::All, Replication::All);
    }
    let translation = Translation::Nested;
    Some(System { translation, kernel, host, vnuma: true, spread: true, ..System::default() })
}

/// vMitosis, figure 5: `[T]OF[MP|MF]` in a guest that sees one node.
pub fn oblivious(config: &str) -> Option<System> {
    let (rest, huge) = strip(config, "T");
    let copies = match rest {
        "OF" => Replication::Off,
        "OFMP" => Replication::Told,
        "OFMF" => Replication::Found,
        _ => return None,
    };
    let pages = pages(huge);
    let host = if copies == Replication::Off { Replication::Off } else { Replication::All };
    Some(System {
        translation: Translation::Nested,
        kernel: Side { pages, replication: copies, ..Side::default() },
        host: Side { pages, replication: host, ..Side::default() },
        spread: true,
        ..System::default()
    })
}

/// The same without Mitosis, by Mitosis's letters.
pub(super) fn without_plus_m(config: &str) -> Option<String> {
    config.strip_suffix("+M").map(str::to_string)
}

/// The same without copies, by vMitosis's letters.
pub(super) fn without_m(config: &str) -> Option<String> {
    config.strip_suffix('M').map(str::to_string)
}

/// The same without tables that follow.
pub(super) fn without_follow(config: &str) -> Option<String> {
    config.strip_suffix(['E', 'G', 'M']).map(str::to_string)
}

/// The same without copies, in a guest that sees one node.
pub(super) fn without_oblivious(config: &str) -> Option<String> {
    config.strip_suffix("MP").or_else(|| config.strip_suffix("MF")).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_systems_that_can_be() {
        let named = |system: Option<System>| {
            let system = system.unwrap();
            system.check().unwrap();
            system.check_on(4).unwrap();
            assert_eq!(System::parse(&system.to_string()), Ok(system));
            system.to_string()
        };
        assert_eq!(named(migration("LP-LD")), "native+placement=0+pt-node=0");
        assert_eq!(named(migration("TRPI-RDI+M")), "native-thp+placement=1+pt-node=1+mitosis+interference=1");
        assert_eq!(named(sockets("TF-A+M")), "native-thp+numa-balancing+mitosis+spread");
        assert_eq!(named(sockets("I")), "native+placement=interleave+spread");
        assert_eq!(
            named(thin("RLIG")),
            "nested+placement=0+pt-node=1+host-pt-node=0+vnuma+vmitosis+interference=1"
        );
        assert_eq!(named(shadow("RI")), "shadow+placement=0+host-pt-node=1+vnuma+interference=1");
        assert_eq!(named(wide("TFAM")), "nested-thp-thp+vnuma+numa-balancing+mitosis+host-mitosis+spread");
        assert_eq!(named(oblivious("OFMF")), "nested+mitosis=no-f+host-mitosis+spread");
        for wrong in ["", "LP", "XP-LD", "LP-LP", "LP-LDX"] {
            assert!(migration(wrong).is_none(), "{wrong}");
        }
        assert!(thin("LX").is_none() && thin("M").is_none() && wide("M").is_none());
        assert!(oblivious("OFM").is_none());
    }
}
