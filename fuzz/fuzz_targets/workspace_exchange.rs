//! What a member of one's workspace may say: any exchange, and any head that he signed.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use diai_blocks::{Blocks, workspace::SERVICE};
use diai_core::memory::Sim;
use diai_fuzz::{ALICE, MALLORY, Served, alices_world, message, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let sim = Sim::new(0);
    let (world, served) = (alices_world(&sim), Arc::new(Served::default()));
    sim.run(async {
        let blocks = Blocks::start(&world, ALICE.clone(), served.clone(), Default::default()).await;
        let blocks = blocks.expect("the disk is empty");
        let workspace = blocks.create_workspace("fuzz", vec![MALLORY.certificate()]).await.expect("two members");
        let id = workspace.id();
        served.request(SERVICE, Bytes::copy_from_slice(data)).await;
        served.request(SERVICE, [&message(&[(1, id.as_bytes())]), data].concat().into()).await;
        let head = [&message(&[(1, id.as_bytes())]), data].concat();
        let head = signed("diai/workspace-head/1", &head);
        served.request(SERVICE, message(&[(1, id.as_bytes()), (3, &head)])).await;
        assert!(workspace.list().len() <= data.len());
    });
});
