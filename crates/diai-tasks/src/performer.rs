//! Runs a task here and signs what came of it: the same for others and for this agent itself.

use std::sync::Arc;

use bytes::Bytes;
use diai_core::AgentId;
use diai_identity::{Identity, Signed};

use crate::{
    Artifact, ArtifactError, Artifacts, AttemptId, OutputFile, Produced, codec,
    error::{GuestError, HostFault},
    executor::{Admission, Executor, Job, RawOutput},
    message::{MAX_INLINE_BYTES, RESULT_DOMAIN, TaskResult},
    spec::raw_cid,
};

pub(crate) struct Performer {
    pub(crate) executor: Executor,
    artifacts: Arc<dyn Artifacts>,
    identity: Identity,
    inline_bytes: usize,
}

impl Performer {
    pub(crate) fn new(
        executor: Executor,
        artifacts: Arc<dyn Artifacts>,
        identity: Identity,
        inline_bytes: usize,
    ) -> Self {
        Self { executor, artifacts, identity, inline_bytes: inline_bytes.min(MAX_INLINE_BYTES) }
    }

    pub(crate) fn agent(&self) -> AgentId {
        self.identity.agent()
    }

    /// Cancel-safe: dropping the future stops the task.
    pub(crate) async fn perform(
        &self,
        job: Job,
        attempt: AttemptId,
        admission: Admission,
    ) -> Result<Signed, HostFault> {
        let (task, from) = (job.task, job.from);
        // The output takes memory until it is stored.
        let _place = admission.clone();
        let ran = self.executor.execute(job, admission).await?;
        let outcome: Result<Produced, GuestError> = match ran.outcome {
            Ok(output) => Ok(self.keep(output, ran.sealed.then_some(from)).await?),
            Err(error) => Err(error),
        };
        let result = TaskResult { task, attempt, outcome, usage: ran.usage };
        Ok(self.identity.sign(RESULT_DOMAIN, codec::encode_result(&result)))
    }

    /// Short outputs go with the result, the others into the store: durable before anybody hears of them. Those for a
    /// `reader` are encrypted for it, and only what is empty goes with the result.
    async fn keep(&self, output: RawOutput, reader: Option<AgentId>) -> Result<Produced, HostFault> {
        let mut room = if reader.is_some() { 0 } else { self.inline_bytes };
        let stdout = self.keep_one(output.stdout, &mut room, reader).await?;
        let mut files = Vec::with_capacity(output.files.len());
        for (name, bytes) in output.files {
            files.push(OutputFile { name, artifact: self.keep_one(bytes, &mut room, reader).await? });
        }
        let produced = Produced { stdout, files };
        if produced.artifacts().any(|artifact| artifact.inline.is_none()) {
            self.artifacts.flush().await.map_err(unavailable)?;
        }
        Ok(produced)
    }

    async fn keep_one(&self, content: Bytes, room: &mut usize, reader: Option<AgentId>) -> Result<Artifact, HostFault> {
        let bytes = content.len() as u64;
        if let Some(rest) = room.checked_sub(content.len()) {
            *room = rest;
            return Ok(Artifact { cid: raw_cid(&content), bytes, inline: Some(content) });
        }
        let cid = self.artifacts.put(content, reader).await.map_err(unavailable)?;
        Ok(Artifact { cid, bytes, inline: None })
    }
}

fn unavailable(error: ArtifactError) -> HostFault {
    HostFault::Unavailable { reason: error.to_string() }
}
