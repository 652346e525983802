//! Making the node be as a project says, and remembering that it was.

use axum::http::StatusCode;
use busbar_catalog::{
    Bundle, Change, Diagnostic, FileChange, History, Kind, Project, changes, file_changes,
    has_errors,
};
use busbar_event::{Class, Error, Micros};
use busbar_flow::Applied;
use tokio::sync::Mutex;

use crate::answer::Refusal;
use crate::app::App;

/// Deploys one project after the other.
pub(crate) struct Deployer {
    history: History,
    one: Mutex<()>,
    /// What was saved last and does not check, while something else runs.
    refused: parking_lot::Mutex<Option<RefusedSave>>,
}

/// Files that were saved in the project's folder and do not check.
#[derive(Clone)]
pub(crate) struct RefusedSave {
    /// When they were looked at.
    pub(crate) time: Micros,
    /// What is wrong with them.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// What was, or would be, deployed.
pub(crate) struct Deployed {
    /// Warnings.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Files whose text differs.
    pub(crate) files: Vec<FileChange>,
    /// Resources whose meaning differs.
    pub(crate) changes: Vec<Change>,
    /// The version that runs; none when nothing was done.
    pub(crate) version: Option<u64>,
    /// What was done to flows; none when nothing was.
    pub(crate) applied: Option<Applied>,
}

/// Why nothing was deployed.
pub(crate) enum NotDeployed {
    /// The project is wrong.
    Wrong(Vec<Diagnostic>),
    /// Something failed.
    Failed(Error),
}

impl From<Error> for NotDeployed {
    fn from(error: Error) -> Self {
        NotDeployed::Failed(error)
    }
}

impl From<NotDeployed> for Refusal {
    fn from(refused: NotDeployed) -> Self {
        match refused {
            NotDeployed::Failed(error) => error.into(),
            NotDeployed::Wrong(diagnostics) => {
                let count = diagnostics.len();
                let first = diagnostics
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let error = Error::new(Class::Configuration, "server.project-wrong")
                    .with("count", count)
                    .with("first", first);
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error).with_diagnostics(diagnostics)
            }
        }
    }
}

impl Deployer {
    pub(crate) fn new(history: History) -> Deployer {
        Deployer {
            history,
            one: Mutex::default(),
            refused: parking_lot::Mutex::default(),
        }
    }

    /// What was saved last, if it does not check.
    pub(crate) fn refused(&self) -> Option<RefusedSave> {
        self.refused.lock().clone()
    }

    /// Remembers that what was saved does not check.
    pub(crate) fn refuse(&self, time: Micros, diagnostics: Vec<Diagnostic>) {
        *self.refused.lock() = Some(RefusedSave { time, diagnostics });
    }

    /// What is saved checks.
    pub(crate) fn accept(&self) {
        *self.refused.lock() = None;
    }

    /// Every version that was deployed.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Deploys a project, or says what doing so would change.
    pub(crate) async fn deploy(
        &self,
        app: &App,
        bundle: Bundle,
        author: &str,
        note: &str,
        dry_run: bool,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let (project, mut diagnostics) = Project::parse(bundle);
        if !has_errors(&diagnostics) {
            diagnostics.extend(busbar_flow::check(&project, &app.connectors));
        }
        if has_errors(&diagnostics) {
            return Err(NotDeployed::Wrong(diagnostics));
        }
        let before = app.runtime.project().await;
        let mut deployed = Deployed {
            diagnostics,
            files: file_changes(&before.bundle, &project.bundle),
            changes: changes(&before, &project),
            version: None,
            applied: None,
        };
        if !dry_run {
            let (version, applied) = self.run(app, project, author, note).await?;
            deployed.version = Some(version);
            deployed.applied = Some(applied);
        }
        Ok(deployed)
    }

    /// Runs a project that was read, at the start of the node.
    pub(crate) async fn start(
        &self,
        app: &App,
        project: Project,
        author: &str,
    ) -> Result<Applied, NotDeployed> {
        let _one = self.one.lock().await;
        let (_, applied) = self.run(app, project, author, "").await?;
        Ok(applied)
    }

    /// The project of the newest version, if there is one.
    pub(crate) fn newest(&self) -> Result<Option<Project>, NotDeployed> {
        let Some(version) = self.history.newest()? else {
            return Ok(None);
        };
        let (project, diagnostics) = Project::parse(Bundle {
            files: version.files,
        });
        if has_errors(&diagnostics) {
            return Err(NotDeployed::Wrong(diagnostics));
        }
        Ok(Some(project))
    }

    async fn run(
        &self,
        app: &App,
        project: Project,
        author: &str,
        note: &str,
    ) -> Result<(u64, Applied), NotDeployed> {
        let history = self.history.clone();
        let newest = blocking(move || history.newest()).await?;
        let (version, known) = match &newest {
            Some(newest) if newest.files == project.bundle.files => (newest.info.version, true),
            Some(newest) => (newest.info.version + 1, false),
            None => (1, false),
        };
        let applied = app
            .runtime
            .apply(&project, version)
            .await
            .map_err(NotDeployed::Wrong)?;
        if known {
            return Ok((version, applied));
        }
        let (history, now) = (self.history.clone(), app.bus.clock().now_micros());
        let (bundle, author, note) = (project.bundle, author.to_owned(), note.to_owned());
        let info = blocking(move || history.add(&bundle, &author, &note, now)).await?;
        Ok((info.version, applied))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::new(Class::Transient, "server.failed-within")))
}

/// Whether a file's change is one of meaning: `None` where a file has none (settings).
pub(crate) fn means(change: &FileChange, changes: &[Change]) -> Option<bool> {
    let (kind, name) = Bundle::classify(&change.path).ok()?;
    if kind == Kind::Config {
        return None;
    }
    Some(
        changes
            .iter()
            .any(|change| change.kind == kind && change.name == name),
    )
}
