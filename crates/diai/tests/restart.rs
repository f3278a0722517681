//! What an agent holds is there after a restart.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{
    HELLO, add, common_root, connect, echo, echoing, find, ids, kill, neighbours, restart, share, start, tree, within,
};
use diai::{
    Agent, Bytes, TaskSpec,
    blocks::{AddOptions, Block, FetchOptions, RAW},
    core::memory::Sim,
};

#[test]
fn a_killed_agent_starts_again_with_its_blocks_pins_and_workspace() {
    let sim = Sim::new(1);
    sim.run(async {
        let mut agents = neighbours(&sim, 3).await;
        let bob = agents.pop().unwrap();
        let (alice, carol) = (&agents[0], &agents[1]);
        let added = add(&bob, vec![1; 700_000]).await;
        let sealed = bob.blocks().add_bytes("for bob alone", AddOptions { private: true, ..AddOptions::default() });
        let sealed = sealed.await.unwrap().cid;
        let pinned = add(alice, "of alice").await;
        bob.blocks().pin(pinned, &FetchOptions::until(within(&bob, 30))).await.unwrap();
        let workspaces = share(&[alice, carol, &bob]).await;
        workspaces[2].put("model", "by bob").await.unwrap();
        workspaces[0].put("idea", "by alice").await.unwrap();
        common_root(&[alice, carol, &bob], &workspaces, 2).await;
        let (id, before) = (workspaces[2].id(), bob.blocks().pins().await.unwrap());
        drop(workspaces);

        let dead = kill(&sim, bob);
        let others: Vec<_> = [alice, carol].iter().map(|agent| agent.blocks().workspace(id).unwrap()).collect();
        others[0].put("meanwhile", "bob was away").await.unwrap();
        common_root(&[alice, carol], &others, 3).await;

        let bob = restart(&sim, dead, echoing()).await;
        for pin in before.iter().filter(|pin| !pin.name.starts_with("workspace")) {
            assert!(bob.blocks().pins().await.unwrap().contains(pin), "{pin:?} is lost");
        }
        bob.blocks().gc().await.unwrap();
        // From here, not from others.
        assert_eq!(bob.blocks().get_bytes(added, 1 << 20, within(&bob, 0)).await.unwrap(), vec![1; 700_000]);
        assert_eq!(bob.blocks().get_bytes(pinned, 1 << 20, within(&bob, 0)).await.unwrap(), b"of alice");
        let opened = bob.blocks().open_sealed(sealed, 1 << 20, within(&bob, 0)).await.unwrap();
        assert_eq!(opened[0].1, "for bob alone");
        let workspace = bob.blocks().workspace(id).unwrap();
        assert_eq!(workspace.read("model").await.unwrap(), "by bob");
        assert_eq!(workspace.read("idea").await.unwrap(), "by alice");
        // What it missed comes.
        let workspaces = [others, vec![workspace]].concat();
        common_root(&[alice, carol, &bob], &workspaces, 3).await;
        assert_eq!(tree(&workspaces[2]).await, tree(&workspaces[0]).await);
        assert_eq!(echo(alice, bob.id()).await.unwrap(), "still here");
    });
}

#[test]
fn shutdown_loses_nothing() {
    let sim = Sim::new(2);
    sim.run(async {
        let alice = start(&sim, 1, Agent::builder().capability("library")).await;
        let bob = start(&sim, 2, echoing().capability("library").serve_tasks(true)).await;
        assert_eq!(find(&bob, "library", 1).await, ids([&alice]));
        // Neither pinned nor flushed: only the shutdown makes them durable.
        let block = Block::new(RAW, Bytes::from_static(b"a loose block")).unwrap();
        bob.blocks().put_block(block.clone()).await.unwrap();
        let program = add(&alice, HELLO).await;
        let output = alice.tasks().run_on(TaskSpec::wasm(program).arg("you"), vec![bob.id()]).await.unwrap();
        let workspaces = share(&[&alice, &bob]).await;
        workspaces[1].put("last", "words").await.unwrap();
        let book = add(&bob, vec![3; 2 << 20]).await;
        let id = workspaces[1].id();
        drop(workspaces);
        bob.shutdown().await;
        alice.shutdown().await;
        // A second call does no harm.
        bob.shutdown().await;
        let (alice, bob) = (kill(&sim, alice), kill(&sim, bob));

        let bob = restart(&sim, bob, echoing()).await;
        assert_eq!(bob.status().known_agents, 1, "who was known is known");
        assert_eq!(bob.blocks().store().get(&block.cid).await.unwrap().unwrap(), block.data);
        assert_eq!(bob.blocks().get_bytes(book, 4 << 20, within(&bob, 0)).await.unwrap(), vec![3; 2 << 20]);
        assert_eq!(bob.blocks().workspace(id).unwrap().read("last").await.unwrap(), "words");
        let alice = restart(&sim, alice, Agent::builder()).await;
        // A result that travelled inline is in the requester's store, too.
        let stdout = alice.blocks().get_bytes(output.stdout().cid, 1 << 20, within(&alice, 0)).await.unwrap();
        assert_eq!(stdout, b"hello, you\n");
        let both = [&alice, &bob].map(|agent| agent.blocks().workspace(id).unwrap());
        common_root(&[&alice, &bob], &both, 1).await;
        assert_eq!(both[0].read("last").await.unwrap(), "words");
    });
}

#[test]
fn an_agent_that_was_shut_down_answers_nobody_and_its_calls_end() {
    let sim = Sim::new(3);
    sim.run(async {
        let agents = neighbours(&sim, 2).await;
        let [alice, bob] = &agents[..] else { unreachable!() };
        connect(alice, bob).await;
        assert!(echo(alice, bob.id()).await.is_ok());
        let block = add(bob, "left behind").await;
        bob.shutdown().await;
        assert!(echo(alice, bob.id()).await.is_err());
        assert!(echo(bob, alice.id()).await.is_err());
        assert!(alice.blocks().get_bytes(block, 1 << 20, within(alice, 5)).await.is_err());
        // What it holds can still be read.
        assert_eq!(bob.blocks().get_bytes(block, 1 << 20, within(bob, 0)).await.unwrap(), b"left behind");
    });
}
