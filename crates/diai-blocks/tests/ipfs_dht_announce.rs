//! Announcements in IPFS's DHT, beside servers that know each other.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod dht_servers;

use std::time::Duration;

use dht_servers::{Odd, PUBLIC, Servers, addr, client, client_at, hashes, is_sample, public_addr, sleep};
use diai_blocks::{IpfsDht, IpfsDhtConfig, ipfs_dht::REPLICATION};
use diai_core::{Multiaddr, memory::Sim};
use futures::StreamExt;

/// Keys of the long announcement; without optimisation more take a minute.
const KEYS: u32 = if cfg!(debug_assertions) { 10_000 } else { 100_000 };

#[test]
fn thousands_of_keys_reach_their_closest_servers_by_few_lookups_and_are_found() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 200, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(2_000);
        let announced = dht.announce(hashes.clone()).await;
        assert_eq!((announced.keys, announced.failed), (2_000, 0));
        assert!(announced.lookups <= 64, "{} lookups", announced.lookups);
        sleep(&world, 1).await;
        let (right, all) = servers.landed(&hashes);
        assert!(right * 100 >= all * 99, "{right} of {all} at the closest");

        let other = client(&sim, 251);
        other.network.connect(servers.peers[1], Vec::new()).await.unwrap();
        let finder = IpfsDht::start(&other, &IpfsDhtConfig::default());
        for hash in hashes.iter().step_by(100) {
            let found: Vec<_> = finder.providers(*hash).collect().await;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].providers, [world.network.local_peer()]);
        }
        assert!(finder.servers() > REPLICATION);
    });
}

#[test]
fn what_is_provided_while_nobody_is_there_is_announced_when_somebody_comes() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hash = hashes(1)[0];
        dht.provide(hash);
        sleep(&world, 1).await;
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        while servers.held.lock().unwrap().len() < 3 {
            sleep(&world, 1).await;
        }
        dht.stop().await;
    });
}

#[test]
fn what_one_network_took_is_announced_on_the_other_when_somebody_comes_there() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let private = Servers::start(&sim, 3, |_| None);
        let public = Servers::of(PUBLIC, &sim, 11..=13, |_| None);
        let (world, _) = client_at(&sim, 250, vec![addr(), public_addr()]);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hash = hashes(1)[0];
        dht.provide(hash);
        world.network.connect(private.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 70).await;
        assert_eq!(private.told(&hash), vec![vec![addr()]; 3]);
        let status = dht.status();
        assert_eq!((status.private.waiting_first, status.public.waiting_first), (0, 1));
        world.network.connect(public.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 70).await;
        assert_eq!(public.told(&hash), vec![vec![public_addr()]; 3]);
        assert_eq!(dht.status().public.waiting_first, 0);
    });
}

#[test]
fn all_is_announced_again_soon_after_this_device_got_a_new_address() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 3, |_| None);
        let (world, addrs) = client_at(&sim, 250, vec![addr()]);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        let hashes = hashes(2);
        dht.provide(hashes[0]);
        dht.provide_many([hashes[1]]);
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        sleep(&world, 40).await;
        let moved: Multiaddr = "/ip4/10.0.0.8/tcp/4001".parse().unwrap();
        *addrs.lock().unwrap() = vec![moved.clone()];
        sleep(&world, 40).await;
        for hash in &hashes {
            assert_eq!(servers.told(hash), vec![vec![moved.clone()]; 3]);
        }
        // An address that comes and goes does not have all announced every time.
        let before = dht.status().private.records;
        for turn in 0..8 {
            *addrs.lock().unwrap() = if turn % 2 == 0 { vec![addr()] } else { vec![moved.clone()] };
            sleep(&world, 35).await;
        }
        let records = dht.status().private.records - before;
        assert!(records <= 2 * 3, "{records} announcements");
    });
}

#[test]
fn a_new_root_does_not_wait_for_a_long_announcement() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, 160, |_| Some(Odd::Slow(Duration::from_secs(2))));
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let mut hashes = hashes(401);
        let root = hashes.pop().unwrap();
        dht.provide_many(hashes);
        sleep(&world, 1).await;
        dht.provide(root);
        sleep(&world, 20).await;
        let status = dht.status();
        assert_eq!((status.keys, status.private.waiting_first), (401, 0));
        assert!(status.private.waiting > 0, "the long one is still under way: {status:?}");
        let (right, all) = servers.landed([&root]);
        assert_eq!(right, all);
        sleep(&world, 1_000).await;
        assert_eq!(dht.status().private.waiting, 0);
    });
}

#[test]
fn very_many_keys_are_announced_by_few_lookups_and_land_where_they_are_looked_for() {
    let (keys, servers) = (KEYS, 200);
    let sim = Sim::new(7);
    sim.clone().run(async move {
        let servers = Servers::start(&sim, servers, |_| None);
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig::default());
        world.network.connect(servers.peers[0], Vec::new()).await.unwrap();
        let hashes = hashes(keys);
        for some in hashes.chunks(4096) {
            dht.provide_many(some.iter().copied());
        }
        while dht.status().private.waiting > 0 {
            sleep(&world, 1).await;
        }
        sleep(&world, 61).await;
        let status = dht.status();
        assert_eq!((status.keys, status.private.failed), (keys as usize, 0));
        let network = status.private;
        assert!(network.lookups * 500 <= u64::from(keys), "{} lookups", network.lookups);
        // Whatever goes over the network but the announcements themselves, of which the protocol wants one for each key and server.
        assert!((network.questions + network.batches) * 10 <= u64::from(keys), "{network:?}");
        assert!(network.records <= 20 * u64::from(keys), "{network:?}");
        let (right, all) = servers.landed(hashes.iter().filter(|hash| is_sample(hash.digest())));
        assert!(right * 100 >= all * 95, "{right} of {all} at the closest");
    });
}

#[test]
fn keys_beyond_the_cap_are_left_out_and_counted() {
    let sim = Sim::new(10);
    sim.clone().run(async move {
        let world = client(&sim, 250);
        let dht = IpfsDht::start(&world, &IpfsDhtConfig { max_keys: 10, ..IpfsDhtConfig::default() });
        let hashes = hashes(12);
        dht.provide_many(hashes.iter().copied());
        assert_eq!((dht.status().keys, dht.status().left_out), (10, 2));
        dht.stop_providing(&hashes[0]);
        dht.provide(hashes[11]);
        assert_eq!((dht.status().keys, dht.status().left_out), (10, 2));
    });
}
