//! Every version of the project that was applied.
//!
//! One [`Store`] keeps them:
//!
//! | key | value |
//! | --- | --- |
//! | `v` and the version's number in eight bytes, big endian, so that versions scan in order | the version as JSON |
//! | `folder` | the files of the project's folder, as they were when they were last taken over, as JSON |
//!
//! The newest version is what runs. A version is added before it is applied, marked as pending, and confirmed
//! afterwards, so that a crash in between leaves one answer to what runs next: the pending version if it can be
//! applied, else the one before it, because nobody was told yet that it was accepted.

use std::collections::BTreeMap;

use busbar_event::{Class, Error};
use busbar_log::{Change as StoreChange, Store};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::limits::{HISTORY_VERSIONS_MAX, NOTE_BYTES_MAX};

/// The applied versions, newest last.
#[derive(Clone)]
pub struct History {
    store: Store,
}

/// One applied version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// When, by whom and why.
    #[serde(flatten)]
    pub info: VersionInfo,
    /// The files.
    pub files: BTreeMap<String, String>,
}

/// A version without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number, from 1.
    pub version: u64,
    /// When it was applied, microseconds since 1970.
    pub time_micros: i64,
    /// Who applied it.
    pub author: String,
    /// Why.
    #[serde(default)]
    pub note: String,
    /// It was recorded, and it is not known yet whether it can be applied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pending: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

const PREFIX: &[u8] = b"v";
const FOLDER: &[u8] = b"folder";

fn key(version: u64) -> Bytes {
    let mut key = PREFIX.to_vec();
    key.extend_from_slice(&version.to_be_bytes());
    key.into()
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        key.strip_prefix(PREFIX)?.try_into().ok()?,
    ))
}

impl History {
    /// The history in a store.
    pub fn new(store: Store) -> History {
        History { store }
    }

    /// Adds a pending version and removes the oldest beyond [`HISTORY_VERSIONS_MAX`]. Waits for the disk.
    ///
    /// # Errors
    /// What the store says; `catalog.note-too-long`.
    pub fn add(
        &self,
        bundle: &Bundle,
        author: &str,
        note: &str,
        time_micros: i64,
    ) -> Result<VersionInfo, Error> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(Error::new(Class::Permanent, "catalog.note-too-long")
                .with("bytes_max", NOTE_BYTES_MAX));
        }
        let numbers = self.numbers();
        let version = numbers.last().map_or(1, |last| last + 1);
        let info = VersionInfo {
            version,
            time_micros,
            author: author.to_owned(),
            note: note.to_owned(),
            pending: true,
        };
        let value = Version {
            info: info.clone(),
            files: bundle.files.clone(),
        };
        let json = serde_json::to_vec(&value).map_err(unreadable)?;
        let mut changes = vec![StoreChange::Put(key(version), json.into())];
        let beyond = (numbers.len() + 1).saturating_sub(HISTORY_VERSIONS_MAX);
        changes.extend(
            numbers[..beyond]
                .iter()
                .map(|old| StoreChange::Delete(key(*old))),
        );
        self.write(changes)?;
        Ok(info)
    }

    /// Notes that the newest version was applied and, when it came from the project's folder, the files of the folder.
    /// Waits for the disk.
    ///
    /// # Errors
    /// What the store says.
    pub fn confirm(&self, folder: Option<&Bundle>) -> Result<(), Error> {
        let mut changes = Vec::new();
        if let Some(mut newest) = self.newest()?
            && newest.info.pending
        {
            newest.info.pending = false;
            let json = serde_json::to_vec(&newest).map_err(unreadable)?;
            changes.push(StoreChange::Put(key(newest.info.version), json.into()));
        }
        if let Some(folder) = folder {
            let json = serde_json::to_vec(folder).map_err(unreadable)?;
            changes.push(StoreChange::Put(FOLDER.into(), json.into()));
        }
        self.write(changes)
    }

    /// Removes the newest version if it is pending: it could not be applied. Waits for the disk.
    ///
    /// # Errors
    /// What the store says.
    pub fn withdraw(&self) -> Result<(), Error> {
        match self.newest()? {
            Some(newest) if newest.info.pending => {
                self.write(vec![StoreChange::Delete(key(newest.info.version))])
            }
            _ => Ok(()),
        }
    }

    /// The files of the project's folder as they were last taken over; `None` before the first time.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn folder(&self) -> Result<Option<Bundle>, Error> {
        let value = self.store.get(FOLDER);
        value
            .map(|value| serde_json::from_slice(&value).map_err(unreadable))
            .transpose()
    }

    fn write(&self, changes: Vec<StoreChange>) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store
            .apply_sync(changes)
            .map_err(|e| Error::new(Class::Transient, "catalog.history-write").caused_by(e))
    }

    /// The newest version: what runs.
    ///
    /// # Errors
    /// A version that cannot be read.
    pub fn newest(&self) -> Result<Option<Version>, Error> {
        self.numbers().last().map(|n| self.version(*n)).transpose()
    }

    /// One version.
    ///
    /// # Errors
    /// `catalog.unknown-version`, or a version that cannot be read.
    pub fn version(&self, version: u64) -> Result<Version, Error> {
        let value = self.store.get(&key(version)).ok_or_else(|| {
            Error::new(Class::Permanent, "catalog.unknown-version").with("version", version)
        })?;
        serde_json::from_slice(&value).map_err(unreadable)
    }

    /// All versions without their files, newest first.
    ///
    /// # Errors
    /// A version that cannot be read.
    pub fn list(&self) -> Result<Vec<VersionInfo>, Error> {
        self.scan(|value| serde_json::from_slice::<VersionInfo>(value).map_err(unreadable))
    }

    /// The texts one file had, newest first, each with the version that brought it. `None` is a version in
    /// which the file went away.
    ///
    /// # Errors
    /// A version that cannot be read.
    pub fn of_file(&self, path: &str) -> Result<Vec<(VersionInfo, Option<String>)>, Error> {
        let mut all = self.scan(|value| {
            let mut version: Version = serde_json::from_slice(value).map_err(unreadable)?;
            let text = version.files.remove(path);
            Ok((version.info, text))
        })?;
        all.reverse();
        let mut texts: Vec<(VersionInfo, Option<String>)> = Vec::new();
        for (info, text) in all {
            if texts
                .last()
                .map_or(text.is_some(), |(_, last)| *last != text)
            {
                texts.push((info, text));
            }
        }
        texts.reverse();
        Ok(texts)
    }

    fn scan<T>(&self, mut read: impl FnMut(&[u8]) -> Result<T, Error>) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        for (_, value) in self.store.scan(PREFIX, None, HISTORY_VERSIONS_MAX + 1) {
            all.push(read(&value)?);
        }
        all.reverse();
        Ok(all)
    }

    fn numbers(&self) -> Vec<u64> {
        let pairs = self.store.scan(PREFIX, None, HISTORY_VERSIONS_MAX + 1);
        pairs.iter().filter_map(|(key, _)| number(key)).collect()
    }
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::new(Class::Permanent, "catalog.history-read").caused_by(e)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use busbar_log::sim::SimDisk;
    use busbar_log::{Log, LogOptions, ManualClock};

    use super::*;

    fn bundle(files: &[(&str, &str)]) -> Bundle {
        Bundle {
            files: files
                .iter()
                .map(|(p, t)| ((*p).to_owned(), (*t).to_owned()))
                .collect(),
        }
    }

    fn open(disk: &SimDisk) -> (Log, History) {
        let clock = Arc::new(ManualClock::new(0));
        let log = Log::open(
            Arc::new(disk.clone()),
            Path::new("/d"),
            LogOptions::default(),
            clock,
        );
        let log = log.unwrap();
        let store = log.store("catalog").unwrap();
        (log, History::new(store))
    }

    #[test]
    fn every_version_is_kept_over_a_power_cut() {
        let disk = SimDisk::new(1);
        let (log, history) = open(&disk);
        assert_eq!(history.newest().unwrap(), None);
        let one = bundle(&[("flows/a.yaml", "1")]);
        let two = bundle(&[("flows/a.yaml", "1"), ("flows/b.yaml", "x")]);
        let three = bundle(&[("flows/b.yaml", "y")]);
        for (i, bundle) in [&one, &two, &three].into_iter().enumerate() {
            let info = history
                .add(bundle, "eva", "because", 10 + i as i64)
                .unwrap();
            assert_eq!(info.version, i as u64 + 1);
        }
        history.confirm(Some(&one)).unwrap();
        drop((log, history));
        disk.crash();
        let (_log, history) = open(&disk);
        assert_eq!(history.folder().unwrap(), Some(one.clone()));
        assert_eq!(history.newest().unwrap().unwrap().files, three.files);
        assert_eq!(history.version(1).unwrap().files, one.files);
        assert_eq!(
            history.version(9).unwrap_err().code(),
            "catalog.unknown-version"
        );
        let list = history.list().unwrap();
        assert_eq!(
            list.iter().map(|v| v.version).collect::<Vec<_>>(),
            [3, 2, 1]
        );
        assert_eq!((list[0].author.as_str(), list[0].time_micros), ("eva", 12));
        let of = |path: &str| -> Vec<(u64, Option<String>)> {
            let texts = history.of_file(path).unwrap();
            texts
                .into_iter()
                .map(|(info, text)| (info.version, text))
                .collect()
        };
        assert_eq!(of("flows/a.yaml"), [(3, None), (1, Some("1".into()))]);
        assert_eq!(
            of("flows/b.yaml"),
            [(3, Some("y".into())), (2, Some("x".into()))]
        );
        assert!(
            history
                .add(&one, "eva", &"x".repeat(NOTE_BYTES_MAX + 1), 0)
                .is_err()
        );
    }
    #[test]
    fn a_pending_version_is_confirmed_or_withdrawn_over_a_power_cut() {
        let disk = SimDisk::new(1);
        let (log, history) = open(&disk);
        history.confirm(None).unwrap();
        let (one, two) = (bundle(&[("flows/a.yaml", "1")]), bundle(&[]));
        history.add(&one, "eva", "", 1).unwrap();
        history.confirm(Some(&one)).unwrap();
        history.withdraw().unwrap();
        assert!(history.add(&two, "eva", "", 2).unwrap().pending);
        drop((log, history));
        disk.crash();
        let (_log, history) = open(&disk);
        let newest = history.newest().unwrap().unwrap();
        assert_eq!((newest.info.version, newest.info.pending), (2, true));
        history.withdraw().unwrap();
        let newest = history.newest().unwrap().unwrap();
        assert_eq!((newest.info.version, newest.info.pending), (1, false));
        assert_eq!(newest.files, one.files);
        assert_eq!(history.folder().unwrap(), Some(one));
        // Its number is free again.
        assert_eq!(history.add(&two, "eva", "", 3).unwrap().version, 2);
        history.confirm(None).unwrap();
        assert!(!history.newest().unwrap().unwrap().info.pending);
    }
}
