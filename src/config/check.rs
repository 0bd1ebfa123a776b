//! What must hold between settings.

use std::collections::HashSet;

use super::address::Address;
use super::settings::Config;
use crate::limits::RECEIVE_SLACK_BYTES;

/// Everything that does not fit together: (setting, what is wrong and what to do).
pub(super) fn check(config: &Config) -> Vec<(&'static str, String)> {
    let Config { general, limits, timeouts, .. } = config;
    let mut faults = Vec::new();
    let mut least = |key, value: usize, other: &str, needed: usize| {
        if value < needed {
            faults.push((key, format!("{value} is below {other} = {needed}: a request that is accepted must fit")));
        }
    };
    least("limits.batch_rows", limits.batch_rows, "limits.candidates_per_request", limits.candidates_per_request);
    least("limits.batch_ids", limits.batch_ids, "limits.ids_per_request", limits.ids_per_request);
    least("limits.in_flight_per_shard", limits.in_flight_per_shard, "limits.in_flight_per_connection", limits.in_flight_per_connection);
    // Score, status byte and index of each candidate, and room for the rest of the answer; half of the room is for answers in flight.
    least(
        "limits.send_bytes",
        limits.send_bytes,
        "the answer to limits.candidates_per_request, in bytes",
        2 * (limits.candidates_per_request * 9 + 4096),
    );

    let slots = limits.models.saturating_mul(limits.slots_per_model);
    if slots > SLOTS_MAX {
        faults.push((
            "limits.slots_per_model",
            format!(
                "limits.models = {} with {} batches each make {slots}, over {SLOTS_MAX} of a shard: lower either",
                limits.models, limits.slots_per_model
            ),
        ));
    }
    let reserved = limits.connections_per_shard.saturating_mul(limits.frame_bytes + RECEIVE_SLACK_BYTES + limits.send_bytes);
    if reserved > ADDRESS_SPACE_MAX {
        faults.push((
            "limits.connections_per_shard",
            format!("{} connections would reserve {reserved} bytes of address space per shard, over {ADDRESS_SPACE_MAX}: lower it, or limits.frame_bytes and limits.send_bytes", limits.connections_per_shard),
        ));
    }
    if timeouts.idle_ms != 0 && timeouts.idle_ms < timeouts.hello_ms {
        faults.push(("timeouts.idle_ms", format!("{} is below timeouts.hello_ms = {}", timeouts.idle_ms, timeouts.hello_ms)));
    }

    for (key, limit) in [("precision_shift", general.precision_shift), ("precision_auc", general.precision_auc)] {
        if !(0.0..=1.0).contains(&limit) {
            faults.push((key, format!("{limit} is not from 0 to 1: it is a difference of probabilities")));
        }
    }
    if matches!(general.admin, Address::Unix(_)) {
        faults.push(("admin", "must be host:port: probes and scrapers speak TCP".into()));
    }
    if general.listen.is_empty() {
        faults.push(("listen", "names no address".into()));
    }
    let mut seen = HashSet::from([&general.admin]);
    for address in &general.listen {
        let free_port = matches!(address, Address::Tcp { port: 0, .. });
        if !free_port && !seen.insert(address) {
            faults.push(("listen", format!("{address} is named twice (or is the admin address too)")));
        }
    }
    faults
}

/// Batches that an engine numbers, of all models of a shard together.
const SLOTS_MAX: usize = u16::MAX as usize;

/// Address space of one shard's connections: far below the 128 TiB of a process.
const ADDRESS_SPACE_MAX: usize = 1 << 40;
