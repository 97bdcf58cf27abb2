//! `pagewalk list`: what there is to choose from.

use crate::cli::{Listed, Output};
use anyhow::Result;
use machine::profile::Profile;
use serde::Serialize;

/// What is listed.
#[derive(Serialize)]
struct Listing {
    /// What there is.
    rows: Vec<Choice>,
    /// Of systems: features, which are added with `+`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    features: Vec<Feature>,
}

/// Something to choose.
#[derive(Serialize)]
struct Choice {
    /// Its name, as the command line takes it.
    name: String,
    /// What it is.
    what: String,
    /// Of a workload: where its access pattern comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    /// Of a workload: what it can be told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Parameter>,
}

/// Something that is added to a system.
#[derive(Serialize)]
struct Feature {
    /// As it is written.
    name: &'static str,
    /// What it does.
    what: &'static str,
}

/// What a workload can be told.
#[derive(Serialize)]
struct Parameter {
    /// Its key.
    name: &'static str,
    /// The value if nothing is said.
    default: &'static str,
    /// What it means.
    meaning: &'static str,
    /// Values that it can have.
    values: String,
}

fn listing(what: Listed) -> Result<Listing> {
    let plain = |name: &str, what: &str| Choice {
        name: name.to_string(),
        what: what.to_string(),
        source: None,
        parameters: Vec::new(),
    };
    let mut features = Vec::new();
    let rows = match what {
        Listed::Systems => {
            features.extend(lab::System::features().iter().map(|(name, what)| Feature { name, what }));
            lab::system::presets().map(|(name, what)| plain(name, what)).collect()
        }
        Listed::Machines => Profile::list()
            .map(|(name, _)| Ok(plain(name, &Profile::builtin(name)?.title)))
            .collect::<Result<_>>()?,
        Listed::Workloads => {
            let parameter = |p: &workloads::Parameter| Parameter {
                name: p.name,
                default: p.default,
                meaning: p.meaning,
                values: p.unit.to_string(),
            };
            let choice = |w: &workloads::Workload| Choice {
                source: Some(w.source),
                parameters: w.parameters.iter().map(parameter).collect(),
                ..plain(w.name, w.summary)
            };
            workloads::list().iter().map(choice).collect()
        }
    };
    Ok(Listing { rows, features })
}

/// Prints it.
pub fn list(what: Listed, output: Output) -> Result<()> {
    let listing = listing(what)?;
    if output.json {
        return crate::print_json("list", &listing);
    }
    let width = listing.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut text: String =
        listing.rows.iter().map(|row| format!("{:width$}  {}\n", row.name, row.what)).collect();
    match what {
        Listed::Systems => {
            text += "\nFeatures, added with `+` (nested+frag=0.5+host-pt-node=1):\n";
            let width = listing.features.iter().map(|f| f.name.len()).max().unwrap_or(0);
            text.extend(listing.features.iter().map(|f| format!("  {:width$}  {}\n", f.name, f.what)));
        }
        Listed::Machines => text += "\nA profile of your own: `-m my.toml`.\n",
        Listed::Workloads => {
            text += "\nParameters (`gups:footprint=64GiB,threads=4`):\n";
            for row in &listing.rows {
                text += &format!("  {} (from {})\n", row.name, row.source.unwrap_or_default());
                text.extend(
                    row.parameters
                        .iter()
                        .map(|p| format!("      {}={}  {} ({})\n", p.name, p.default, p.meaning, p.values)),
                );
            }
        }
    }
    crate::show(&text)
}
