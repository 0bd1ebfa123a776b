//! Connections are spread over shards.

use gavel::config::Address;
use gavel::metrics::Registry;

use crate::support::raw::Raw;
use crate::support::traffic::Random;
use crate::support::{TestServer, config};
use crate::{each_backend, serve, until};

fn counts(registry: &Registry) -> Vec<u64> {
    registry.snapshot().shards.iter().map(|shard| shard.connections).collect()
}

fn await_balance(server: &TestServer, connections: u64) {
    until("connections arrive", || counts(&server.registry).iter().sum::<u64>() == connections);
    let counts = counts(&server.registry);
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
}

#[test]
fn connections_differ_by_at_most_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gavel.sock");
    each_backend(|backend| {
        for shards in [2, 3, 5] {
            let mut config = config();
            config.general.listen.push(Address::Unix(path.clone()));
            let (server, _) = serve(backend, shards, config);
            let addresses = server.server.addresses().to_vec();
            // All over TCP, all over the Unix socket, mixed.
            for which in [|_| 0, |_| 1, |number: usize| number % 2] {
                let open = |number: usize| Raw::open(&addresses[which(number)]);
                let mut clients: Vec<Raw> = (0..64).map(open).collect();
                await_balance(&server, 64);
                // Some leave, wherever they were; the next ones fill the gaps.
                let mut random = Random(shards as u64);
                for _ in 0..24 {
                    clients.swap_remove(random.below(clients.len()));
                }
                until("connections leave", || counts(&server.registry).iter().sum::<u64>() == 40);
                clients.extend((0..24).map(open));
                await_balance(&server, 64);
                drop(clients);
                until("everybody is gone", || counts(&server.registry).iter().all(|count| *count == 0));
            }
            assert_eq!(server.registry.snapshot().connections_opened, 3 * 88);
            server.end(());
        }
    });
}
