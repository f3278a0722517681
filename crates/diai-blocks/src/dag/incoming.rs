//! Reading the frames of an answer, with bounds on how long that takes.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use diai_core::{BoxStream, Clock, Instant, Misbehaviour, OpenError, timeout_at};
use futures::{
    AsyncReadExt, FutureExt,
    stream::{self, BoxStream as Row, StreamExt},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{Frame, pace::Pace};

/// Asked for at a time while no long frame comes.
const READ_BYTES: usize = 64 << 10;
/// Frames are checked in batches of so many, or of so many bytes, and of fewer while no more are there.
const BATCH_FRAMES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Why a sender was left.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("it could not be reached in time")]
    Unreached,
    #[error("it sent nothing")]
    Silent,
    #[error("it sent next to nothing")]
    Slow,
    #[error("the time for whole DAGs is over")]
    Late,
    #[error("it sent what is here already, over and over")]
    Repeats,
    #[error("what was to be skipped is here no more")]
    Gone,
    #[error("its DAG has too many links at a time")]
    Wide,
    #[error("the stream broke: {0}")]
    Broken(#[from] io::Error),
    #[error("it misbehaved: {0:?}")]
    Misbehaved(Misbehaviour),
}

/// How long one waits, and for how little.
struct Waits {
    stall: Duration,
    deadline: Instant,
    pace: Pace,
}

pub(super) struct Frames {
    clock: Arc<dyn Clock>,
    stream: BoxStream,
    buffer: BytesMut,
    waits: Waits,
    /// What the next call says: a frame before it was good.
    over: Option<Fault>,
}

impl Frames {
    /// A sender that sends nothing for as long as `stall` is done with, and anybody at the `deadline`.
    pub(super) fn new(clock: Arc<dyn Clock>, stream: BoxStream, stall: Duration, deadline: Instant) -> Self {
        let waits = Waits { stall, deadline, pace: Pace::default() };
        Self { clock, stream, buffer: BytesMut::new(), waits, over: None }
    }

    /// Batches of frames, up to a fault, or until `stop`. They are read by a task of their own, so that no time counts
    /// against the sender in which nobody listened to it.
    pub(super) fn batches(mut self, mut stop: oneshot::Receiver<()>) -> Row<'static, Result<Vec<Frame>, Fault>> {
        let (sender, batches) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let batch = tokio::select! {
                    biased;
                    _ = &mut stop => return,
                    batch = self.batch() => batch,
                };
                let over = batch.is_err();
                // Whoever wanted it may have left.
                if sender.send(batch).await.is_err() || over {
                    return;
                }
            }
        });
        let next = |(mut batches, task): (mpsc::Receiver<_>, JoinSet<()>)| async move {
            batches.recv().await.map(|batch| (batch, (batches, task)))
        };
        stream::unfold((batches, task), next).boxed()
    }

    /// Some frames, at least one.
    pub(super) async fn batch(&mut self) -> Result<Vec<Frame>, Fault> {
        if let Some(fault) = self.over.take() {
            return Err(fault);
        }
        let mut frames = Vec::new();
        match self.gather(&mut frames).await {
            Err(fault) if frames.is_empty() => Err(fault),
            Err(fault) => {
                self.over = Some(fault);
                Ok(frames)
            }
            Ok(()) => Ok(frames),
        }
    }

    async fn gather(&mut self, frames: &mut Vec<Frame>) -> Result<(), Fault> {
        let malformed = |_| Fault::Misbehaved(Misbehaviour::Malformed);
        let mut bytes = 0;
        loop {
            while let Some(frame) = Frame::take(&mut self.buffer).map_err(malformed)? {
                bytes += if let Frame::Block { data, .. } = &frame { data.len() } else { 0 };
                frames.push(frame);
                if frames.len() >= BATCH_FRAMES || bytes >= BATCH_BYTES {
                    return Ok(());
                }
            }
            if let Some(length) = Frame::length(&self.buffer).map_err(malformed)?
                && length > READ_BYTES
            {
                if frames.is_empty() {
                    self.long(length).await?;
                    continue;
                }
                return Ok(());
            }
            let have = self.buffer.len();
            self.buffer.resize(have + READ_BYTES, 0);
            let read = match frames.is_empty() {
                true => read(&*self.clock, &mut self.stream, &mut self.waits, &mut self.buffer[have..]).await,
                // What is there already comes along.
                false => match self.stream.read(&mut self.buffer[have..]).now_or_never() {
                    Some(read) => read.map_err(Fault::from),
                    None => {
                        self.buffer.truncate(have);
                        return Ok(());
                    }
                },
            };
            self.buffer.truncate(have + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Reads the rest of the long frame that the buffer begins with, to where it stays.
    async fn long(&mut self, length: usize) -> Result<(), Fault> {
        let mut frame = BytesMut::zeroed(length);
        let mut have = self.buffer.len();
        frame[..have].copy_from_slice(&self.buffer);
        while have < length {
            match read(&*self.clock, &mut self.stream, &mut self.waits, &mut frame[have..]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                read => have += read,
            }
        }
        self.buffer = frame;
        Ok(())
    }
}

async fn read(clock: &dyn Clock, stream: &mut BoxStream, waits: &mut Waits, buffer: &mut [u8]) -> Result<usize, Fault> {
    let begin = clock.now();
    let (silent, slow) = (begin + waits.stall, begin + waits.pace.left());
    let until = waits.deadline.min(silent).min(slow);
    let read = timeout_at(clock, until, stream.read(buffer)).await.map_err(|_| match until {
        _ if until == waits.deadline => Fault::Late,
        _ if until == slow => Fault::Slow,
        _ => Fault::Silent,
    })??;
    waits.pace.note(clock.now().since(begin), read);
    Ok(read)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use diai_core::{
        AcceptOptions,
        memory::{AgentSpec, Sim},
    };
    use futures::AsyncWriteExt;

    use super::*;
    use crate::{Block, RAW, dag::PROTOCOL};

    /// Frames that are read after pauses of ours, and of the sender's.
    fn frames_with_pauses(ours: u64, theirs: u64) -> Result<usize, Fault> {
        let sim = Sim::new(1);
        sim.clone().run(async move {
            let (here, there) = (sim.join(AgentSpec::example(1)), sim.join(AgentSpec::example(2)));
            let mut incoming = there.network.accept(&[PROTOCOL], AcceptOptions::default()).unwrap();
            let stream = here.network.open(there.network.local_peer(), &[PROTOCOL]).await.unwrap().stream;
            let mut sending = JoinSet::new();
            let clock = there.clock.clone();
            sending.spawn(async move {
                let mut stream = incoming.next().await.unwrap().stream;
                for number in 0..8u8 {
                    let block = Block::new(RAW, vec![number; 100]).unwrap();
                    let mut out = BytesMut::new();
                    Frame::Block { cid: block.cid, data: block.data }.put(&mut out);
                    stream.write_all(&out).await.unwrap();
                    stream.flush().await.unwrap();
                    clock.sleep_until(clock.now() + Duration::from_secs(theirs)).await;
                }
            });
            let (_stop, stopped) = oneshot::channel();
            let frames = Frames::new(here.clock.clone(), stream, Duration::from_secs(3), Instant::NEVER);
            let (mut batches, mut count) = (frames.batches(stopped), 0);
            while count < 8 {
                count += batches.next().await.unwrap()?.len();
                here.clock.sleep_until(here.clock.now() + Duration::from_secs(ours)).await;
            }
            Ok(count)
        })
    }

    #[test]
    fn time_in_which_nobody_listens_counts_against_no_sender() {
        assert_eq!(frames_with_pauses(30, 1).unwrap(), 8);
    }

    #[test]
    fn a_sender_of_next_to_nothing_is_slow_and_one_of_nothing_at_all_silent() {
        assert!(matches!(frames_with_pauses(0, 2), Err(Fault::Slow)));
        assert!(matches!(frames_with_pauses(0, 4), Err(Fault::Silent)));
    }
}
