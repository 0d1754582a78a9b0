//! Where an option's bytes come from, and how to notice that they have changed.

use std::borrow::Cow;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Cause, Error, Result, Stage, is_exhaustion};

/// Bytes of an option, or the file that has them, with the option's name for errors.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// PEM text, or the bytes of a PKCS#12 file.
    Given(&'static str, Arc<[u8]>),
    /// Path of a file, for trust anchors also of a folder.
    Path(&'static str, PathBuf),
}

/// What tells one state of a file from another. A new file that was renamed to the path has another
/// inode; ctime tells of permissions as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    path: PathBuf,
    /// Device, inode, size, and mtime and ctime in seconds and nanoseconds; `None` if it is missing.
    state: Option<[i64; 7]>,
}

impl Source {
    /// Name of the option that gave this source.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Given(option, _) | Self::Path(option, _) => option,
        }
    }

    /// The bytes. For a folder those of its files that can be read, in the order of their names:
    /// one of them may be somebody else's.
    pub fn read(&self) -> Result<Vec<Cow<'_, [u8]>>> {
        match self {
            Self::Path(_, path) if path.is_dir() => {
                let files = files_of(path).map_err(|error| self.unreadable(path, &error))?;
                let mut texts = Vec::new();
                for file in files {
                    match std::fs::read(&file) {
                        Ok(text) => texts.push(Cow::Owned(text)),
                        // That says nothing about the file.
                        Err(error) if is_exhaustion(&error) => {
                            return Err(self.unreadable(&file, &error));
                        }
                        Err(_) => {}
                    }
                }
                Ok(texts)
            }
            _ => Ok(vec![self.read_one()?]),
        }
    }

    /// The bytes of one file or of the text.
    pub fn read_one(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Given(_, bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Path(_, path) => std::fs::read(path)
                .map(Cow::Owned)
                .map_err(|error| self.unreadable(path, &error)),
        }
    }

    /// Whether this is a folder, whose files need not all be what is looked for.
    pub fn is_folder(&self) -> bool {
        matches!(self, Self::Path(_, path) if path.is_dir())
    }

    /// Whether there is something that may change.
    pub fn is_path(&self) -> bool {
        matches!(self, Self::Path(..))
    }

    /// Adds the states of the files behind this source.
    pub fn add_states(&self, states: &mut Vec<FileState>) {
        if let Self::Path(_, path) = self {
            states.push(FileState::of(path));
            for file in files_of(path).unwrap_or_default() {
                if file != *path {
                    states.push(FileState::of(&file));
                }
            }
        }
    }

    fn unreadable(&self, path: &Path, error: &std::io::Error) -> Error {
        Error::new(
            Stage::Options,
            Cause::Unreadable {
                option: self.option(),
                path: path.display().to_string(),
                reason: error.to_string(),
            },
        )
    }
}

impl FileState {
    /// Whose state this is.
    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn of(path: &Path) -> Self {
        let state = std::fs::metadata(path).ok().map(|metadata| {
            [
                metadata.dev().cast_signed(),
                metadata.ino().cast_signed(),
                metadata.size().cast_signed(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ]
        });
        Self {
            path: path.to_owned(),
            state,
        }
    }
}

/// The path itself, or the files of a folder: not what lies deeper.
fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl fmt::Debug for Source {
    /// Never shows the text: it may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(option, _) => write!(f, "{option} (text)"),
            Self::Path(option, path) => write!(f, "{option} ({})", path.display()),
        }
    }
}
