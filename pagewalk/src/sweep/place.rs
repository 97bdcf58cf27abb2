//! A sweep and its directory.

use super::args::Which;
use anyhow::{Context, Result, bail};
use lab::sweep::{Digests, Plan, Sweep, replace};
use std::fs;
use std::path::{Path, PathBuf};

/// A plan, and where its results are kept.
pub(super) struct Place {
    pub(super) plan: Plan,
    pub(super) directory: PathBuf,
    text: String,
}

impl Place {
    /// Plans a sweep from its file, or from the copy in its directory.
    pub(super) fn open(which: &Which) -> Result<Place> {
        let given = &which.sweep;
        let (copy, file, directory) = if given.is_dir() {
            let origin = fs::read_to_string(given.join("origin")).with_context(|| {
                format!("{} is no sweep's directory: it has no `origin`; name the TOML file", given.display())
            })?;
            (given.join("sweep.toml"), PathBuf::from(origin), given.clone())
        } else {
            let beside = given.with_extension("sweep");
            if beside == *given {
                bail!("there is no directory {}; name the sweep's TOML file", given.display());
            }
            (given.clone(), given.clone(), which.directory.clone().unwrap_or(beside))
        };
        let text =
            fs::read_to_string(&copy).with_context(|| format!("cannot read sweep {}", copy.display()))?;
        // The copy is understood as the file that it is of: its name, and where its paths begin.
        let origin = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let sweep = Sweep::parse(&text, &file, origin)?;
        let mut digests = Digests::kept_in(&directory.join("digests.json"));
        let plan = Plan::new(sweep, &mut digests)?;
        if directory.is_dir() {
            digests.keep();
        }
        Ok(Place { plan, directory, text })
    }

    /// Makes the directory, with a copy of the file for jobs.
    pub(super) fn prepare(&self) -> Result<()> {
        let directory = &self.directory;
        let place = || {
            format!(
                "cannot write to the sweep's directory {}; choose another with --directory",
                directory.display()
            )
        };
        fs::create_dir_all(directory).with_context(place)?;
        let origin = std::path::absolute(&self.plan.sweep.file)?;
        let keep = |name: &str, content: &[u8]| {
            let path = directory.join(name);
            match fs::read(&path).is_ok_and(|old| old == content) {
                true => Ok(()),
                false => replace(&path, content),
            }
        };
        keep("sweep.toml", self.text.as_bytes()).with_context(place)?;
        keep("origin", origin.as_os_str().as_encoded_bytes()).with_context(place)?;
        lab::sweep::Store::new(directory).prepare().with_context(place)
    }
}
