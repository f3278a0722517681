//! The workspaces of an agent: their files, their tasks, and the service that members call.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use diai_core::{
    Misbehaviour, OpenMode, Refusal, RegisterError, Registration, Reply, Request, offload, service_fn, write_atomically,
};
use diai_identity::Certificate;
use tokio::task::JoinSet;

use super::{
    JoinError, SERVICE, Workspace, WorkspaceError, WorkspaceId,
    codec::{Exchange, Terms},
    invitation::SignedTerms,
    shell::{Parts, ReceiveError, Shared, folder},
    sync,
};

const STATE_INFO: &[u8] = b"diai/workspace-terms/1";
const FOLDER: &str = "workspaces";
/// Sealed terms on disk.
const MAX_TERMS_BYTES: u64 = 512 << 10;

pub(crate) struct Workspaces(Arc<Inner>);

struct Inner {
    parts: Parts,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    workspaces: BTreeMap<WorkspaceId, Arc<Shared>>,
    tasks: JoinSet<()>,
    registration: Option<Registration>,
}

impl Workspaces {
    /// Opens those that are on disk, and serves them.
    pub(crate) async fn start(parts: Parts) -> Result<Self, StartWorkspacesError> {
        let inner = Arc::new(Inner { parts, open: Mutex::default() });
        for bytes in inner.stored().await? {
            let Ok(terms) = inner.parts.identity.open_sealed(STATE_INFO, &bytes) else {
                tracing::warn!("a workspace on disk was left closed: it was sealed to another device key");
                continue;
            };
            match SignedTerms::verify(terms.into(), &inner.parts.identity) {
                Ok(terms) => drop(inner.open_workspace(terms).await?),
                Err(error) => tracing::warn!(%error, "a workspace on disk is damaged and was left closed"),
            }
        }
        let serving: Weak<Inner> = Arc::downgrade(&inner);
        let registration =
            inner.parts.calls.register(SERVICE, service_fn(move |request| serve(serving.clone(), request)))?;
        inner.lock().registration = Some(registration);
        Ok(Self(inner))
    }

    pub(crate) async fn create(&self, name: &str, members: Vec<Certificate>) -> Result<Workspace, WorkspaceError> {
        let parts = &self.0.parts;
        let mut all = vec![parts.identity.certificate()];
        for certificate in members {
            let agent = certificate.agent();
            certificate.verify(parts.world.clock.wall()).map_err(|reason| WorkspaceError::Member { agent, reason })?;
            if all.iter().all(|member| member.agent() != agent) {
                all.push(certificate);
            }
        }
        if all.len() > parts.config.max_members {
            return Err(WorkspaceError::TooMany { what: "members", limit: parts.config.max_members });
        }
        if name.len() > 256 {
            return Err(WorkspaceError::TooMany { what: "bytes in a workspace's name", limit: 256 });
        }
        let terms = Terms { name: name.to_owned(), secret: parts.world.entropy.bytes(), members: all };
        self.0.add(SignedTerms::sign(&parts.identity, terms)).await
    }

    pub(crate) async fn join(&self, invitation: Bytes) -> Result<Workspace, JoinError> {
        let parts = &self.0.parts;
        let terms = SignedTerms::open(invitation, &parts.identity)?;
        if terms.terms.members.len() > parts.config.max_members {
            return Err(WorkspaceError::TooMany { what: "members", limit: parts.config.max_members }.into());
        }
        if self.get(terms.id).is_some() {
            return Err(JoinError::Joined { id: terms.id });
        }
        Ok(self.0.add(terms).await?)
    }

    pub(crate) fn get(&self, id: WorkspaceId) -> Option<Workspace> {
        self.0.lock().workspaces.get(&id).cloned().map(Workspace)
    }

    pub(crate) fn list(&self) -> Vec<Workspace> {
        self.0.lock().workspaces.values().cloned().map(Workspace).collect()
    }

    /// Stops serving and ends all tasks.
    pub(crate) async fn stop(&self) {
        let mut tasks = {
            let mut open = self.0.lock();
            open.registration = None;
            std::mem::take(&mut open.tasks)
        };
        tasks.shutdown().await;
    }
}

/// Why workspaces were not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartWorkspacesError {
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Register(#[from] RegisterError),
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sealed terms on disk.
    async fn stored(&self) -> Result<Vec<Vec<u8>>, WorkspaceError> {
        let disk = self.parts.world.disk.clone();
        let read = move || {
            disk.create_folder(FOLDER)?;
            let mut found = Vec::new();
            for entry in disk.list(FOLDER)? {
                let path = format!("{FOLDER}/{}/terms", entry.name);
                let Ok(terms) = disk.entry(&path) else { continue };
                let mut bytes = vec![0; terms.bytes.min(MAX_TERMS_BYTES) as usize];
                disk.open(&path, OpenMode::Read)?.read_exact_at(0, &mut bytes)?;
                found.push(bytes);
            }
            Ok::<_, std::io::Error>(found)
        };
        Ok(offload(&*self.parts.world.offload, read).await.map_err(|_| WorkspaceError::Closed)??)
    }

    /// Keeps a new workspace on disk, sealed to this device, and opens it.
    async fn add(&self, terms: SignedTerms) -> Result<Workspace, WorkspaceError> {
        let limit = self.parts.config.max_workspaces;
        if self.lock().workspaces.len() >= limit {
            return Err(WorkspaceError::TooMany { what: "workspaces", limit });
        }
        let entropy = &*self.parts.world.entropy;
        let sealed = self.parts.identity.encryption_key().seal(entropy, STATE_INFO, &terms.bytes);
        let (disk, folder) = (self.parts.world.disk.clone(), folder(&terms.id));
        let write = move || {
            disk.create_folder(&folder)?;
            write_atomically(&*disk, &format!("{folder}/terms"), &sealed)?;
            disk.sync_folder(FOLDER)
        };
        offload(&*self.parts.world.offload, write).await.map_err(|_| WorkspaceError::Closed)??;
        self.open_workspace(terms).await
    }

    async fn open_workspace(&self, terms: SignedTerms) -> Result<Workspace, WorkspaceError> {
        let shared = Shared::open(self.parts.clone(), terms).await?;
        let mut open = self.lock();
        open.workspaces.insert(shared.id(), shared.clone());
        open.tasks.spawn(sync::run(shared.clone()));
        Ok(Workspace(shared))
    }
}

/// Serves one exchange. Only members are answered; to others the workspace does not exist.
async fn serve(inner: Weak<Inner>, request: Request) -> Result<Reply, Refusal> {
    let inner = inner.upgrade().ok_or(Refusal::UnknownService)?;
    let world = &inner.parts.world;
    let Ok(exchange) = Exchange::decode(request.body) else {
        world.network.penalise(request.peer, Misbehaviour::Malformed);
        return Err(Refusal::BadRequest { reason: "not an exchange of a workspace".to_owned() });
    };
    let shared = inner.lock().workspaces.get(&exchange.workspace).cloned();
    let shared = shared.filter(|shared| shared.state().peers.contains_key(&request.from));
    let shared = shared.ok_or_else(|| Refusal::NotAllowed { reason: "no workspace of yours".to_owned() })?;
    match sync::answer(&shared, request.from, exchange).await {
        Ok(answer) => Ok(Reply::Whole(answer)),
        Err(ReceiveError::Head(error)) => Err(Refusal::BadRequest { reason: error.to_string() }),
        Err(ReceiveError::Local(error)) => Err(Refusal::Failed { reason: error.to_string() }),
    }
}
