//! Every combination of the axes of the design: which run, and why the others do not.
//!
//! A choice is a word of the grammar that names systems ([`System::parse`]), so a combination is
//! a name, and what refuses it is what refuses it on the command line. Choices that
//! are a matter of degree (how fragmented, which node, how large a reservation) stand here with one value.

use crate::system::{self, System};

/// An axis of the design.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// Its name.
    pub name: &'static str,
    /// What can be chosen, the baseline first: what a name adds for it.
    pub choices: Vec<&'static str>,
    /// Only in a VM.
    pub of_vm: bool,
}

/// Page sizes of the kernel that the processes run on, and of the host under it.
const PAGES: &[&str] = &["4k", "thp", "2m", "1g"];

/// The axes but the way of translation and the page sizes. A mechanism of the list is one more choice of
/// who keeps tables, on each side.
pub fn axes() -> Vec<Axis> {
    let axis = |name, choices: &[&'static str], of_vm| Axis { name, choices: choices.to_vec(), of_vm };
    let mut axes = vec![
        axis(
            "tables",
            &["", "placement=interleave", "pt-node=0", "mitosis", "vmitosis+numa-balancing"],
            false,
        ),
        axis("what the guest sees of nodes", &["", "vnuma", "mitosis=no-p"], true),
        axis(
            "the VM's tables",
            &["", "host-placement=interleave", "host-pt-node=0", "host-mitosis", "host-vmitosis"],
            true,
        ),
        axis("frames", &["", "ptemagnet", "frag=0.5", "frag=0.5+ptemagnet"], false),
        axis("sharing", &["", "babelfish", "babelfish=tables", "babelfish=tlb"], false),
        axis("levels", &["", "5level"], false),
    ];
    for about in crate::named::all() {
        axes[0].choices.push(about.name);
        axes[2].choices.push(about.host_name);
    }
    axes
}

/// A combination: its name, and the system or why it is none.
#[derive(Clone, PartialEq, Debug)]
pub struct Combination {
    /// As the grammar names it.
    pub name: String,
    /// What it is.
    pub system: Result<System, String>,
}

/// All combinations, in the order of the axes.
pub fn combinations() -> impl Iterator<Item = Combination> {
    system::bases().flat_map(|(base, way)| {
        let virtual_ = System { translation: way, ..System::default() }.is_virtual();
        let hosts: &[&str] = if virtual_ { PAGES } else { &[""] };
        let pages = PAGES.iter().flat_map(move |kernel| {
            hosts.iter().map(move |host| match *host {
                "" => format!("{base}-{kernel}"),
                host => format!("{base}-{kernel}-{host}"),
            })
        });
        let axes: Vec<Axis> = axes().into_iter().filter(|axis| virtual_ || !axis.of_vm).collect();
        pages.flat_map(move |head| {
            let count: usize = axes.iter().map(|axis| axis.choices.len()).product();
            let axes = axes.clone();
            (0..count).map(move |mut number| {
                let mut name = head.clone();
                for axis in axes.iter().rev() {
                    let choice = axis.choices[number % axis.choices.len()];
                    number /= axis.choices.len();
                    if !choice.is_empty() {
                        name = format!("{name}+{choice}");
                    }
                }
                combination(name)
            })
        })
    })
}

/// The combination of a name.
fn combination(name: String) -> Combination {
    match System::parse(&name) {
        Ok(system) => Combination { name: system.to_string(), system: Ok(system) },
        Err(error) => Combination { name, system: Err(error.reason) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_preset_axis_is_a_combination_and_names_are_told_apart() {
        let (mut names, mut reasons) = (BTreeSet::new(), BTreeSet::new());
        for combination in combinations() {
            match combination.system {
                Ok(_) => assert!(names.insert(combination.name.clone()), "{} twice", combination.name),
                Err(reason) => {
                    assert!(reason.len() > 20, "{}: {reason}", combination.name);
                    reasons.insert(reason);
                }
            }
        }
        for name in
            ["native", "nested-thp-thp", "shadow", "dual-direct", "native+mitosis", "nested+ptemagnet"]
        {
            assert!(names.contains(name), "{name}");
        }
        assert!(names.len() > 1000, "{}", names.len());
        // Few reasons for many refusals: each is a sentence of `System::check`.
        assert!((5..40).contains(&reasons.len()), "{reasons:#?}");
    }
}
