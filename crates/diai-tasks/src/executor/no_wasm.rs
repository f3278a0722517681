//! Stands where `wasm.rs` does in a build without the feature `wasm`: services run, programs are refused.

use std::convert::Infallible;

use bytes::Bytes;
use cid::Cid;
use diai_core::World;
use tokio::sync::OwnedSemaphorePermit;

use super::{Admission, RawOutput};
use crate::{
    ExecutorConfig, TaskContext, TaskSpec,
    error::{GuestError, HostFault},
};

/// A compiled program: there is none.
#[derive(Clone, Copy)]
pub(super) enum Compiled {}

/// What is known of a program: nothing ever is.
pub(super) struct Known {
    pub(super) compiled: Result<Compiled, GuestError>,
    pub(super) open: bool,
}

/// How a run of a guest ended.
pub(super) struct Ended {
    pub(super) outcome: Result<RawOutput, GuestError>,
    pub(super) fuel: u64,
    pub(super) misjudged: bool,
}

/// What a run is given beside its spec.
#[expect(dead_code, reason = "no program reads it")]
pub(super) struct Given {
    pub(super) inputs: Vec<(String, Bytes)>,
    pub(super) reports: TaskContext,
}

/// The engine: it cannot be made.
pub(super) struct Wasm(Infallible);

impl Wasm {
    pub(super) fn new(_world: &World, _config: &ExecutorConfig) -> Result<Self, HostFault> {
        let reason = "this agent was built without the feature `wasm` and runs no programs".to_owned();
        Err(HostFault::Unavailable { reason })
    }

    pub(super) fn known(&self, _program: &Cid) -> Option<Known> {
        match self.0 {}
    }

    pub(super) async fn compile(
        &self,
        _program: Cid,
        _bytes: Bytes,
        _open: bool,
        _admission: Admission,
    ) -> Result<Result<Compiled, GuestError>, HostFault> {
        match self.0 {}
    }

    pub(super) async fn run(
        &self,
        compiled: Compiled,
        _spec: &TaskSpec,
        _given: Given,
        _slot: OwnedSemaphorePermit,
        _quick: bool,
    ) -> Result<Ended, HostFault> {
        match compiled {}
    }
}
