//! The mechanisms of the list ([`Named`]) as a [`System`] names them: parsed, printed, checked, and put beside the
//! presets and remedies of the others. What there is to say of one, it says itself.

use crate::advise::{Reach, Remedy};
use crate::numa::Replication;
use crate::system::{Pages, System};
use mechanisms::Named;
use mechanisms::mechanism::{About, Side};

/// What each mechanism of the list says of itself.
pub(crate) fn all() -> impl Iterator<Item = About> {
    Named::ALL.iter().map(|named| named.about())
}

/// Systems that show the mechanisms of the list.
pub(crate) fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
    all().flat_map(|about| about.systems.iter().copied())
}

/// Those of them that are in a VM, or are not, as remedies.
pub(crate) fn remedies(in_vm: bool) -> impl Iterator<Item = Remedy> {
    let systems = all().flat_map(|about| about.systems.iter().map(move |(system, _)| (*system, about.needs)));
    let here = move |name: &str| System::parse(name).is_ok_and(|system| system.is_virtual() == in_vm);
    systems.filter(move |(system, _)| here(system)).map(|(system, needs)| Remedy {
        system,
        reach: Reach::Hardware,
        needs,
    })
}

impl System {
    /// Takes a mechanism of the list by its name; none if there is no such one.
    pub(crate) fn take_named(&mut self, name: &str) -> Option<Result<(), String>> {
        let (named, about, side) = Named::ALL.iter().find_map(|named| {
            let about = named.about();
            match name {
                _ if name == about.name => Some((*named, about, Side::Kernel)),
                _ if name == about.host_name => Some((*named, about, Side::Host)),
                _ => None,
            }
        })?;
        let place = match side {
            Side::Kernel => &mut self.kernel.mechanism,
            Side::Host => &mut self.host.mechanism,
        };
        Some(match place.replace(named) {
            Some(other) if other != named => {
                let (one, other) = (about.name, other.about().name);
                Err(format!("`{one}` and `{other}` take the same baselines' places: one of them on a side"))
            }
            _ => Ok(()),
        })
    }

    /// Its mechanisms of the list, as features of a name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &'static str> {
        let kernel = self.kernel.mechanism.map(|named| named.about().name);
        let host = self.host.mechanism.map(|named| named.about().host_name);
        kernel.into_iter().chain(host)
    }

    /// Refuses what a mechanism of the list says that it cannot be with.
    pub(crate) fn check_named(&self) -> Result<(), String> {
        for side in [Side::Kernel, Side::Host] {
            let choices = match side {
                Side::Kernel => &self.kernel,
                Side::Host => &self.host,
            };
            let Some(about) = choices.mechanism.map(Named::about) else { continue };
            let present = |word: &str| match word {
                "mitosis" => choices.replication != Replication::Off,
                "vmitosis" => choices.tables_follow,
                "babelfish" => self.babelfish.is_some(),
                "1g" => choices.pages == Pages::Huge1G,
                way => crate::system::bases().any(|(name, base)| name == way && base == self.translation),
            };
            let here = |on: Option<Side>| on.is_none_or(|on| on == side);
            if let Some(refusal) = about.refuses.iter().find(|r| here(r.on) && present(r.with)) {
                return Err(format!("`{}` with `{}`: {}", about.name, refusal.with, refusal.why));
            }
        }
        Ok(())
    }
}

/// In files, a mechanism is its name.
pub(crate) mod by_name {
    use super::{Named, all};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(named: &Option<Named>, to: S) -> Result<S::Ok, S::Error> {
        named.map(|named| named.about().name).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Named>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        match Named::ALL.iter().find(|named| named.about().name == name) {
            Some(named) => Ok(Some(*named)),
            None => {
                let known: Vec<&str> = all().map(|about| about.name).collect();
                Err(D::Error::custom(format!("`{name}` is no mechanism of the list: {}", known.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_list_has_systems_that_print_as_themselves() {
        for (name, about) in presets() {
            assert_eq!(System::parse(name).unwrap().to_string(), name);
            assert!(about.len() > 10, "{name}: {about}");
        }
        for about in all() {
            assert!(about.says.len() > 10 && about.needs.len() > 5, "{}", about.name);
            let mine = |name: &str| name.contains(about.name);
            assert!(about.systems.iter().all(|(name, _)| mine(name)), "{}", about.name);
            for (feature, host) in [(about.name, false), (about.host_name, true)] {
                let base = if host { "nested" } else { "native" };
                let name = format!("{base}+{feature}");
                let system = System::parse(&name).unwrap();
                assert_eq!(system.to_string(), name);
                let text = serde_json::to_string(&system).unwrap();
                assert_eq!(serde_json::from_str::<System>(&text).unwrap(), system, "{text}");
                assert!(text.contains(about.name), "{text}");
            }
            let host_alone = System::parse(&format!("native+{}", about.host_name)).unwrap_err();
            assert!(host_alone.to_string().contains("no host"), "{host_alone}");
        }
    }

    #[test]
    fn each_refusal_is_met_by_a_system() {
        for about in all() {
            for refusal in about.refuses {
                let (with, why) = (refusal.with, refusal.why);
                let feature = if refusal.on == Some(Side::Host) { about.host_name } else { about.name };
                let systems = [
                    format!("{with}+{feature}"),
                    format!("native+{with}+{feature}"),
                    format!("nested+vnuma+{with}+{feature}"),
                    format!("nested+host-{with}+{feature}"),
                    format!("native-{with}+{feature}"),
                ];
                let refused =
                    |name: &String| System::parse(name).is_err_and(|error| error.reason.contains(why));
                assert!(systems.iter().any(refused), "{}: no system is refused for {refusal:?}", about.name);
            }
        }
    }
}
