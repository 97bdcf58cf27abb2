//! Machine profiles: what a machine is made of, with the source of every number.
//!
//! A profile is a TOML file. Numbers that have the same source stand in one
//! table, and each table says its `source` and how far to `trust` it; so a
//! constant without a source cannot be written. A profile is calibrated on
//! facts of hardware, never on what a paper measured with it.
//!
//! ```
//! let machine = machine::profile::Profile::builtin("haswell-ex").unwrap();
//! assert_eq!(machine.topology.sockets, 4);
//! let error = machine::profile::Profile::builtin("haswel-ex").unwrap_err();
//! assert!(error.to_string().contains("haswell-ex"));
//! ```

mod check;
mod error;
mod format;
mod parts;

pub use error::ProfileError;
pub use format::{
    Bandwidth, CacheSpec, Caches, Clock, Cost, Costs, Dimension, Latency, Loaded, MemorySection, NestedTlb,
    Pipeline, Policy, Profile, StlbSection, TlbSpec, Tlbs, Topology, Trust, WalkCacheSpec, Walker,
    WalkerEntry, Ways,
};
pub use parts::Fact;

/// The profiles in the program, by name.
const BUILTIN: [(&str, &str); 8] = [
    ("sandy-bridge-en", include_str!("../../profiles/sandy-bridge-en.toml")),
    ("haswell-ex", include_str!("../../profiles/haswell-ex.toml")),
    ("broadwell", include_str!("../../profiles/broadwell.toml")),
    ("skylake-sp", include_str!("../../profiles/skylake-sp.toml")),
    ("cascade-lake", include_str!("../../profiles/cascade-lake.toml")),
    ("zen4", include_str!("../../profiles/zen4.toml")),
    ("babelfish-sim", include_str!("../../profiles/babelfish-sim.toml")),
    ("dmt-sim", include_str!("../../profiles/dmt-sim.toml")),
];

impl Profile {
    /// Names and texts of the built-in profiles, oldest machine first.
    pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
        BUILTIN.into_iter()
    }

    /// The built-in profile `name`.
    ///
    /// # Errors
    /// If there is none, with the nearest names.
    pub fn builtin(name: &str) -> Result<Profile, ProfileError> {
        match BUILTIN.iter().find(|(known, _)| *known == name) {
            Some((known, text)) => Profile::from_toml(text, &format!("built-in profile {known}")),
            None => Err(ProfileError::unknown_name(name, BUILTIN.map(|(known, _)| known))),
        }
    }

    /// Reads and checks a profile; `file` is how errors name it.
    ///
    /// # Errors
    /// If the text is not TOML, a key is missing or unknown, or a value cannot be.
    pub fn from_toml(text: &str, file: &str) -> Result<Profile, ProfileError> {
        let profile: Profile =
            toml::from_str(text).map_err(|error| ProfileError::syntax(file, error.to_string()))?;
        profile.checked(file)
    }

    /// Checks a profile that was changed after it was read; `file` is how errors name it.
    ///
    /// # Errors
    /// If a value cannot be.
    pub fn checked(self, file: &str) -> Result<Profile, ProfileError> {
        check::check(&self, file)?;
        Ok(self)
    }
}
