//! Deploys projects: checks them, records them, applies them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::StatusCode;
use busbar_access::Access;
use busbar_bus::Bus;
use busbar_catalog::{
    Bundle, Change, Diagnostic, FailingTests, FileChange, History, Kind, Project, Version, changes,
    file_changes, has_errors,
};
use busbar_connector::Connectors;
use busbar_event::{Class, Error, Micros};
use busbar_flow::{Applied, Runtime};
use tokio::sync::Mutex;

use crate::answer::Refusal;
use crate::apis::Apis;
use crate::gateways::{DeclaredGateways, GatewayPlan};
use crate::orchestrations::Orchestrations;
use crate::secrets::unmasked;

/// Deploys projects, one after the other.
///
/// A version is recorded before it is applied ([`History`]), and what was accepted last is what the node starts.
/// The project's folder is one of several places a project comes from: a file of the folder takes effect when it
/// changes, and until then what was accepted over the API or by a rollback stands ([`merge`]).
pub(crate) struct Deployer {
    history: History,
    target: DeployTarget,
    one: Mutex<()>,
    /// What was saved last and does not check, while something else runs.
    refused: parking_lot::Mutex<Option<RefusedSave>>,
    /// The files of the project's folder as they were last taken over; none while the node runs without a folder.
    folder: parking_lot::Mutex<Option<Bundle>>,
}

/// What a project is deployed to.
pub(crate) struct DeployTarget {
    pub(crate) bus: Bus,
    pub(crate) access: Arc<Access>,
    pub(crate) connectors: Connectors,
    pub(crate) runtime: Runtime,
    pub(crate) orchestrations: Arc<Orchestrations>,
    pub(crate) apis: Arc<Apis>,
    pub(crate) gateways: Arc<DeclaredGateways>,
    /// Whether flow tests that fail are warnings or refuse the project.
    pub(crate) failing_tests: FailingTests,
}

/// The files of a project's folder, or why they cannot be read.
pub type FolderRead = Result<Bundle, Vec<Diagnostic>>;

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
    /// Warnings, among them the flow tests that fail.
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
    pub(crate) fn new(history: History, target: DeployTarget) -> Deployer {
        Deployer {
            history,
            target,
            one: Mutex::default(),
            refused: parking_lot::Mutex::default(),
            folder: parking_lot::Mutex::default(),
        }
    }

    /// What was saved last, if it does not check.
    pub(crate) fn refused(&self) -> Option<RefusedSave> {
        self.refused.lock().clone()
    }

    /// The files in which what runs differs from the project's folder, from the folder to what runs.
    pub(crate) fn differences(&self, running: &Bundle) -> Vec<FileChange> {
        let folder = self.folder.lock();
        folder
            .as_ref()
            .map(|folder| file_changes(folder, running))
            .unwrap_or_default()
    }

    /// Every version that was deployed.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Deploys a project that was sent in, or says what doing so would change.
    pub(crate) async fn deploy(
        &self,
        bundle: Bundle,
        author: &str,
        note: &str,
        (dry_run, replay): (bool, bool),
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let running = self.target.runtime.project().await;
        let wanted = Deployment {
            bundle: unmasked(bundle, &running, &self.target.connectors)
                .map_err(NotDeployed::Wrong)?,
            author,
            note,
            folder: None,
            replay,
        };
        self.deploy_locked(wanted, dry_run).await
    }

    /// Deploys the project that runs with more files; a path that is there already is refused.
    pub(crate) async fn add(
        &self,
        files: BTreeMap<String, String>,
        author: &str,
        note: &str,
        dry_run: bool,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let running = self.target.runtime.project().await;
        let known = &running.bundle.files;
        if let Some(path) = files.keys().find(|path| known.contains_key(*path)) {
            let error = Error::new(Class::Configuration, "server.apply-exists").with("path", path);
            return Err(NotDeployed::Failed(error));
        }
        let added = unmasked(Bundle { files }, &running, &self.target.connectors);
        let mut bundle = added.map_err(NotDeployed::Wrong)?;
        bundle.files.extend(known.clone());
        let wanted = Deployment {
            bundle,
            author,
            note,
            folder: None,
            replay: false,
        };
        self.deploy_locked(wanted, dry_run).await
    }

    /// Deploys the files of the project's folder. When they do not check everything goes on as it was, and
    /// [`Deployer::refused`] tells what is wrong until they do.
    pub(crate) async fn save(
        &self,
        read: FolderRead,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let running = self.target.runtime.project().await.bundle;
        let saved = self.save_locked(read, &running, author).await;
        if let Err(NotDeployed::Wrong(diagnostics)) = &saved {
            let time = self.target.bus.clock().now_micros();
            let diagnostics = diagnostics.clone();
            *self.refused.lock() = Some(RefusedSave { time, diagnostics });
        }
        saved
    }

    async fn save_locked(
        &self,
        read: FolderRead,
        running: &Bundle,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let folder = read.map_err(NotDeployed::Wrong)?;
        let history = self.history.clone();
        let before = blocking(move || history.folder()).await?;
        let wanted = Deployment {
            bundle: merge(before.as_ref(), &folder, running),
            author,
            note: "",
            folder: Some(&folder),
            replay: false,
        };
        let deployed = self.deploy_locked(wanted, false).await?;
        *self.folder.lock() = Some(folder);
        *self.refused.lock() = None;
        Ok(deployed)
    }

    /// Deploys the project that runs with one flow as it was in an earlier version. `replay`: it begins anew where it cannot go
    /// on with the state that there is.
    pub(crate) async fn rollback(
        &self,
        flow: &str,
        version: u64,
        author: &str,
        replay: bool,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let history = self.history.clone();
        let old = blocking(move || history.version(version)).await?;
        let paths = ["yaml", "yml"].map(|ending| format!("flows/{flow}.{ending}"));
        let Some((path, text)) = paths.iter().find_map(|path| old.files.get_key_value(path)) else {
            let error = Error::new(Class::Permanent, "server.unknown-flow");
            return Err(error.with("name", busbar_event::quote(flow)).into());
        };
        let mut bundle = self.target.runtime.project().await.bundle;
        for path in &paths {
            bundle.files.remove(path);
        }
        bundle.files.insert(path.clone(), text.clone());
        let note = format!("{flow}: rollback to {version}");
        let wanted = Deployment {
            bundle,
            author,
            note: &note,
            folder: None,
            replay,
        };
        self.deploy_locked(wanted, false).await
    }

    /// Deploys the project that runs with one table more.
    pub(crate) async fn add_table(
        &self,
        table: &str,
        text: &str,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let mut bundle = self.target.runtime.project().await.bundle;
        let path = format!("tables/{table}.yaml");
        bundle.files.insert(path, text.to_owned());
        let note = format!("table {table}");
        let wanted = Deployment {
            bundle,
            author,
            note: &note,
            folder: None,
            replay: false,
        };
        self.deploy_locked(wanted, false).await
    }

    /// Deploys the project that runs with a flow in place of the one of that name, or with one more; or says what doing so
    /// would change.
    ///
    /// # Errors
    /// `server.flow-exists` where there is one and it is not to be replaced.
    pub(crate) async fn put_flow(
        &self,
        flow: &str,
        text: &str,
        author: &str,
        (replace, dry_run, replay): (bool, bool, bool),
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let mut bundle = self.target.runtime.project().await.bundle;
        let paths = ["yaml", "yml"].map(|ending| format!("flows/{flow}.{ending}"));
        for path in &paths {
            if bundle.files.remove(path).is_some() && !replace {
                let error = Error::new(Class::Configuration, "server.flow-exists");
                return Err(error.with("name", flow).into());
            }
        }
        bundle.files.insert(paths[0].clone(), text.to_owned());
        let note = format!("process {flow}");
        let wanted = Deployment {
            bundle,
            author,
            note: &note,
            folder: None,
            replay,
        };
        self.deploy_locked(wanted, dry_run).await
    }

    /// Deploys the project that runs with the files of one plug-in as they were in an earlier version.
    pub(crate) async fn rollback_plugin(
        &self,
        plugin: &str,
        version: u64,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let history = self.history.clone();
        let old = blocking(move || history.version(version)).await?;
        let folder = plugin_folder(plugin);
        let files = old.files.into_iter();
        let files: BTreeMap<String, String> = files
            .filter(|(path, _)| path.starts_with(&folder))
            .collect();
        if files.is_empty() {
            let error = Error::new(Class::Permanent, "plugin.unknown");
            return Err(error.with("name", busbar_event::quote(plugin)).into());
        }
        let bundle = with_plugin(&self.target.runtime, plugin, files).await;
        let note = format!("{plugin}: rollback to {version}");
        let wanted = Deployment {
            bundle,
            author,
            note: &note,
            folder: None,
            replay: false,
        };
        self.deploy_locked(wanted, false).await
    }

    /// Deploys the project that runs with these files of one plug-in, by their paths in the project.
    pub(crate) async fn save_plugin(
        &self,
        plugin: &str,
        files: BTreeMap<String, String>,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let bundle = with_plugin(&self.target.runtime, plugin, files).await;
        let note = format!("plug-in {plugin}");
        let wanted = Deployment {
            bundle,
            author,
            note: &note,
            folder: None,
            replay: false,
        };
        self.deploy_locked(wanted, false).await
    }

    /// Starts what was accepted last, with what has changed in the project's folder since. When the folder's files do
    /// not check, what was accepted last runs without them. `author` is who the version is recorded for, if there is a
    /// new one.
    pub(crate) async fn start(
        &self,
        read: Option<FolderRead>,
        author: &str,
    ) -> Result<Deployed, NotDeployed> {
        let _one = self.one.lock().await;
        let history = self.history.clone();
        let newest = blocking(move || history.newest()).await?;
        let running = newest.as_ref().map(|newest| Bundle {
            files: newest.files.clone(),
        });
        let Some(read) = read else {
            return self.resume(newest, author).await;
        };
        let base = running.clone().unwrap_or_default();
        let saved = self.save_locked(read, &base, author).await;
        match (saved, newest) {
            (Err(NotDeployed::Wrong(wrong)), Some(newest)) => {
                let started = self.resume(Some(newest), author).await;
                // Where what ran before cannot run either, the files at hand are the ones to repair.
                let Ok(deployed) = started else {
                    return Err(NotDeployed::Wrong(wrong));
                };
                let time = self.target.bus.clock().now_micros();
                *self.refused.lock() = Some(RefusedSave {
                    time,
                    diagnostics: wrong,
                });
                let history = self.history.clone();
                *self.folder.lock() = blocking(move || history.folder()).await?;
                Ok(deployed)
            }
            (saved, _) => saved,
        }
    }

    /// Runs the newest version, or the one before it where a crash came before it was known whether the newest can be
    /// applied, and it cannot.
    async fn resume(&self, newest: Option<Version>, author: &str) -> Result<Deployed, NotDeployed> {
        let pending = newest.as_ref().is_some_and(|newest| newest.info.pending);
        let wanted = |version: Option<Version>| Deployment {
            bundle: Bundle {
                files: version.map(|version| version.files).unwrap_or_default(),
            },
            author,
            note: "",
            folder: None,
            replay: false,
        };
        match self.deploy_locked(wanted(newest), false).await {
            Err(NotDeployed::Wrong(wrong)) if pending => {
                let why = wrong.first().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(
                    why,
                    "the version that was being deployed when the node ended cannot be applied; the one before it runs"
                );
                let history = self.history.clone();
                let before = blocking(move || {
                    history.withdraw()?;
                    history.newest()
                })
                .await?;
                self.deploy_locked(wanted(before), false).await
            }
            other => other,
        }
    }

    async fn deploy_locked(
        &self,
        wanted: Deployment<'_>,
        dry_run: bool,
    ) -> Result<Deployed, NotDeployed> {
        let (project, mut diagnostics) = Project::parse(wanted.bundle.clone());
        if !has_errors(&diagnostics) {
            diagnostics.extend(busbar_flow::check(&project, &self.target.connectors));
        }
        if has_errors(&diagnostics) {
            return Err(NotDeployed::Wrong(diagnostics));
        }
        let before = self.target.runtime.project().await;
        let files = file_changes(&before.bundle, &project.bundle);
        // What was accepted before is not tested again when the node starts.
        let (history, bundle) = (self.history.clone(), wanted.bundle.clone());
        let accepted = blocking(move || {
            let newest = history.newest()?;
            Ok(newest.is_some_and(|newest| !newest.info.pending && newest.files == bundle.files))
        });
        if !files.is_empty() && !accepted.await? {
            diagnostics.extend(failing_tests(&self.target, &project).await?);
            if has_errors(&diagnostics) {
                return Err(NotDeployed::Wrong(diagnostics));
            }
        }
        let mut deployed = Deployed {
            diagnostics,
            files,
            changes: changes(&before, &project),
            version: None,
            applied: None,
        };
        if !dry_run {
            let (version, applied) = self.run(project, &wanted).await?;
            deployed.version = Some(version);
            deployed.applied = Some(applied);
        }
        Ok(deployed)
    }

    /// Records a project, applies it, and notes that it was applied.
    async fn run(
        &self,
        project: Project,
        wanted: &Deployment<'_>,
    ) -> Result<(u64, Applied), NotDeployed> {
        let (history, now) = (self.history.clone(), self.target.bus.clock().now_micros());
        let (bundle, author, note) = (
            wanted.bundle.clone(),
            wanted.author.to_owned(),
            wanted.note.to_owned(),
        );
        let recorded = blocking(move || match history.newest()? {
            Some(newest) if newest.files == bundle.files => Ok(newest.info),
            Some(newest) if newest.info.pending => {
                history.withdraw()?;
                history.add(&bundle, &author, &note, now)
            }
            _ => history.add(&bundle, &author, &note, now),
        })
        .await?;
        let version = recorded.version;
        let plan = match self.prepare_gateways(&project).await {
            Ok(plan) => plan,
            Err(refused) => {
                let history = self.history.clone();
                blocking(move || history.withdraw()).await?;
                return Err(refused);
            }
        };
        let applied = self
            .target
            .runtime
            .apply_as(&project, version, (wanted.replay, !recorded.pending))
            .await;
        let (history, folder) = (self.history.clone(), wanted.folder.cloned());
        match applied {
            Ok(applied) => {
                self.target.orchestrations.apply(&project).await?;
                self.target.apis.apply(&project);
                let declared = Arc::clone(&self.target.gateways);
                blocking(move || {
                    declared.commit(plan);
                    Ok(())
                })
                .await?;
                // The version is recorded either way, so that a failure here changes nothing that was promised.
                if let Err(error) = blocking(move || history.confirm(folder.as_ref())).await {
                    tracing::warn!(%error, "it was not recorded that the version was applied");
                }
                Ok((recorded.version, applied))
            }
            Err(wrong) => {
                blocking(move || history.withdraw()).await?;
                Err(NotDeployed::Wrong(wrong))
            }
        }
    }
}

impl Deployer {
    /// Opens the ports of the gateways of a project, so that nothing is exchanged where one cannot be opened.
    async fn prepare_gateways(&self, project: &Project) -> Result<GatewayPlan, NotDeployed> {
        let declared = Arc::clone(&self.target.gateways);
        let (project, has_users) = (project.clone(), self.target.access.has_users());
        let prepared = blocking(move || Ok(declared.prepare(&project, has_users))).await?;
        prepared.map_err(NotDeployed::Wrong)
    }
}

/// A project to deploy.
struct Deployment<'a> {
    bundle: Bundle,
    author: &'a str,
    note: &'a str,
    /// The files of the project's folder, when it was read for this.
    folder: Option<&'a Bundle>,
    /// Flows whose new version cannot go on with the state that there is begin anew.
    replay: bool,
}

/// What is to run: the files of the folder that have changed since they were last taken over (all of them the first
/// time), and for the others what runs.
fn merge(before: Option<&Bundle>, folder: &Bundle, running: &Bundle) -> Bundle {
    let Some(before) = before else {
        return folder.clone();
    };
    let paths: BTreeSet<&String> = [before, folder, running]
        .into_iter()
        .flat_map(|bundle| bundle.files.keys())
        .collect();
    let text = |path: &String| {
        let saved = folder.files.get(path);
        match saved == before.files.get(path) {
            true => running.files.get(path),
            false => saved,
        }
    };
    let files = paths.into_iter().filter_map(|path| {
        let text = text(path)?;
        Some((path.clone(), text.clone()))
    });
    Bundle {
        files: files.collect(),
    }
}

/// The flow tests of a project that fail: warnings, or errors where the settings say so.
async fn failing_tests(target: &DeployTarget, project: &Project) -> Result<Vec<Diagnostic>, Error> {
    if project
        .flows
        .values()
        .all(|flow| flow.spec.tests.is_empty())
    {
        return Ok(Vec::new());
    }
    let (project, connectors) = (project.clone(), target.connectors.clone());
    let refuse = target.failing_tests == FailingTests::Refuse;
    blocking(move || {
        let report = busbar_flow::run_tests(&project, &connectors, None);
        let failed = report.tests.iter().filter(|test| !test.passed);
        let diagnostics = failed.filter_map(|test| {
            let error = Error::new(Class::Configuration, "server.test-failed")
                .with("flow", &test.flow)
                .with("test", &test.test)
                .with("count", test.differences.len());
            let flow = project.flows.get(&test.flow)?;
            let diagnostic = flow.source.diagnostic_about(Some("tests"), error);
            Some(if refuse {
                diagnostic
            } else {
                diagnostic.warning()
            })
        });
        Ok(diagnostics.collect())
    })
    .await
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

/// How the paths of a plug-in's files begin.
pub(crate) fn plugin_folder(plugin: &str) -> String {
    format!("{}/{plugin}/", Kind::Plugin.folder())
}

/// The files of the project that runs, with these in place of those of one plug-in.
pub(crate) async fn with_plugin(
    runtime: &Runtime,
    plugin: &str,
    files: BTreeMap<String, String>,
) -> Bundle {
    let mut bundle = runtime.project().await.bundle;
    let folder = plugin_folder(plugin);
    bundle.files.retain(|path, _| !path.starts_with(&folder));
    bundle.files.extend(files);
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        let files = files.iter();
        Bundle {
            files: files
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_file_of_the_folder_counts_when_it_has_changed() {
        let before = bundle(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
        // b was rolled back, c removed and e added over the API.
        let running = bundle(&[("a", "1"), ("b", "0"), ("d", "1"), ("e", "9")]);
        assert_eq!(merge(Some(&before), &before, &running), running);
        let folder = bundle(&[("a", "2"), ("b", "1"), ("c", "1"), ("f", "1")]);
        let expected = bundle(&[("a", "2"), ("b", "0"), ("e", "9"), ("f", "1")]);
        assert_eq!(merge(Some(&before), &folder, &running), expected);
        let folder = bundle(&[("a", "1"), ("b", "2"), ("c", "2"), ("d", "1"), ("e", "2")]);
        assert_eq!(merge(Some(&before), &folder, &running), folder);
        assert_eq!(merge(None, &folder, &running), folder);
    }
}
