//! Why a profile cannot be used.

/// A profile that cannot be used: what is wrong, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Not a built-in profile.
    #[error("no machine is called {name:?}{}\n  hint: `pagewalk list machines` shows all; a profile of your own is given by its file", did_you_mean(.nearest))]
    UnknownName {
        /// What was asked for.
        name: String,
        /// Names like it, the most alike first.
        nearest: Vec<&'static str>,
    },
    /// Not TOML, or not of this format.
    #[error("{file}: {reason}")]
    Syntax {
        /// Which profile.
        file: String,
        /// The reader's own words, with line and column.
        reason: String,
    },
    /// A value that cannot be.
    #[error("{file}: {key} = {value}: {reason}\n  hint: {remedy}")]
    Value {
        /// Which profile.
        file: String,
        /// Where in it.
        key: String,
        /// What it says.
        value: String,
        /// Why that cannot be.
        reason: String,
        /// What to write instead.
        remedy: String,
    },
}

fn did_you_mean(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

impl ProfileError {
    pub(super) fn syntax(file: &str, reason: String) -> ProfileError {
        ProfileError::Syntax { file: file.into(), reason: reason.trim_end().into() }
    }

    pub(super) fn unknown_name(name: &str, known: impl IntoIterator<Item = &'static str>) -> ProfileError {
        let mut scored: Vec<_> =
            known.into_iter().map(|known| (strsim::jaro_winkler(name, known), known)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        // Below this likeness a suggestion is noise.
        let nearest = scored.into_iter().filter(|(score, _)| *score > 0.7).take(3);
        ProfileError::UnknownName { name: name.into(), nearest: nearest.map(|(_, name)| name).collect() }
    }
}
