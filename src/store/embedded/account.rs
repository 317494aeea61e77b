//! Who runs the server: ourselves, or, for root, an account without rights.

use super::EmbeddedError;
use nix::unistd::{Gid, Uid, User, geteuid};
use std::{
    os::unix::fs::MetadataExt as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// The user the server runs as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// None when the service is not root: the server runs as the service does.
    drop_to: Option<(Uid, Gid)>,
}

impl Account {
    /// `postgres`, else `nobody`, when we are root; ourselves otherwise.
    pub(super) fn choose() -> Result<Self, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(Self { drop_to: None });
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.ok_or(EmbeddedError::NoAccount)?;
        Ok(Self { drop_to: Some((user.uid, user.gid)) })
    }

    #[cfg(test)]
    /// Whether the service is root and the server is not.
    pub(super) fn drops(&self) -> bool {
        self.drop_to.is_some()
    }

    /// Gives a folder to the account.
    pub(super) fn own(&self, path: &Path) -> std::io::Result<()> {
        match self.drop_to {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }

    /// The first folder above `path` (or `path` itself) that the account may not enter.
    pub(super) fn barred_by(&self, path: &Path) -> Option<PathBuf> {
        let (uid, gid) = self.drop_to?;
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        above.into_iter().find(|dir| !enterable(dir, uid, gid)).map(Path::to_owned)
    }

    /// Makes `command` run as the account and end when this process's supervisor thread does.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        // After the change of user, which would clear the signal. SIGINT is Postgres' fast, clean shutdown.
        // SAFETY: between fork and exec only an async-signal-safe system call is made.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGINT).map_err(std::io::Error::from)
            });
        }
    }
}

fn enterable(dir: &Path, uid: Uid, gid: Gid) -> bool {
    let Ok(meta) = std::fs::metadata(dir) else { return true };
    let bit = if meta.uid() == uid.as_raw() {
        0o100
    } else if meta.gid() == gid.as_raw() {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_nobody_else_may_enter_is_named() {
        let Ok(account) = Account::choose() else { return };
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        std::fs::create_dir_all(closed.join("inner")).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        let expected = account.drops().then_some(closed.clone());
        assert_eq!(account.barred_by(&closed.join("inner")), expected);
    }
}
