//! Whether a system fits a machine and an input, and what it begins from.

use super::{Experiment, ExperimentError};
use crate::system::System;
use crate::world::{Plan, World};
use machine::input::Setup;
use machine::profile::Profile;
use paging::NodeId;

/// What of a machine decides whether a system can be on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    nodes: usize,
    bytes: u64,
}

impl Room {
    pub(crate) fn of(profile: &Profile) -> Room {
        let layout = profile.layout();
        let frames: u64 = layout.nodes.iter().flat_map(|n| &n.frames).map(|r| r.end - r.start).sum();
        Room { nodes: layout.nodes.len(), bytes: frames * 4096 }
    }

    /// Refuses a system that makes no sense here, or for a workload that fills so many bytes before it begins.
    pub(crate) fn check(&self, system: &System, workload: &str, filled: u64) -> Result<(), String> {
        system.check()?;
        system.check_on(self.nodes)?;
        let room = if system.is_virtual() { self.bytes / 8 * 7 } else { self.bytes };
        if filled > room / 100 * 99 {
            return Err(format!(
                "{workload} fills a footprint of {} GiB, and there are {} GiB of memory; take a smaller footprint \
                 or a larger machine",
                filled >> 30,
                room >> 30
            ));
        }
        Ok(())
    }
}

/// Bytes that are filled before the first access.
pub(crate) fn filled(setup: &Setup) -> u64 {
    let regions = setup.processes.iter().flat_map(|p| &p.regions);
    regions.filter(|r| r.populate != machine::input::Populate::OnDemand).map(|r| r.len).sum()
}

/// The plan for one system.
///
/// # Errors
/// [`ExperimentError::Refused`].
pub fn plan(experiment: &Experiment, system: System, setup: &Setup) -> Result<Plan, ExperimentError> {
    let profile = &experiment.profile;
    let refused = |reason: String| ExperimentError::Refused {
        system: system.to_string(),
        machine: profile.name.clone(),
        reason,
    };
    Room::of(profile).check(&system, &setup.name, filled(setup)).map_err(refused)?;
    Ok(Plan {
        system,
        profile: profile.clone(),
        cores: place(profile, threads(profile, setup, system.spread), system.spread),
        seed: experiment.seed,
        verify: experiment.verify,
        placing: None,
        lose_shootdowns: false,
    })
}

/// The world of one system of an experiment, with what `setup` fills, before its first access.
///
/// # Errors
/// [`ExperimentError::Refused`], or [`ExperimentError::World`] if what is filled does not fit after all.
pub fn world(experiment: &Experiment, system: System, setup: &Setup) -> Result<World, ExperimentError> {
    World::new(plan(experiment, system, setup)?, setup).map_err(ExperimentError::under(system))
}

/// For how many threads there are to be cores: if nobody knows, for as many as a socket has, or the machine.
fn threads(profile: &Profile, setup: &Setup, spread: bool) -> usize {
    let sockets = if spread { profile.topology.sockets as usize } else { 1 };
    let all = profile.topology.cores_per_socket as usize * sockets;
    let known = setup.threads.len().max(1);
    if setup.more_threads { known.max(all) } else { known }
}

/// Where threads run: on the first socket while they fit there and are not to be
/// spread, else dealt out over all sockets, one core for each as far as there are cores.
fn place(profile: &Profile, threads: usize, spread: bool) -> Vec<NodeId> {
    let each = profile.topology.cores_per_socket as usize;
    let sockets = profile.topology.sockets as usize;
    if threads <= each && !spread {
        return vec![NodeId(0); threads];
    }
    (0..threads.min(each * sockets)).map(|thread| NodeId((thread % sockets) as u8)).collect()
}
