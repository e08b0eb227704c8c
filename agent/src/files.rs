//! Files that outlive crashes and are their owner's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::problem::Problem;

/// Permissions of folders and of files.
const DIR: u32 = 0o700;
const FILE: u32 = 0o600;
/// How deep below the state folder anything of ours lies.
const DEPTH: usize = 2;

/// Writes a file whole or not at all, and so that it survives a crash. Only its
/// owner can read it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(FILE).open(&draft)?;
        // One that a crash left keeps the permissions that it had.
        file.set_permissions(Permissions::from_mode(FILE))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().with_context(|| format!("{}", path.display()))
}

/// Makes a folder that only its owner can enter.
pub fn private_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(DIR).create(dir);
    made.with_context(|| format!("{}", dir.display()))
}

/// Makes the state folder, or has one that is there be its owner's alone, with
/// everything in it: an earlier agent may have left it open.
pub fn own(state_dir: &Path) -> Result<()> {
    private_dir(state_dir)?;
    let named = || format!("{}", state_dir.display());
    let mode = fs::metadata(state_dir).with_context(named)?.permissions().mode();
    // Closing a folder that everybody uses would break the host.
    if mode & 0o002 != 0 {
        bail!(Problem::new(
            format!(
                "everybody may write in {}, so the agent cannot trust what is in it",
                state_dir.display()
            ),
            "name another folder with --state-dir"
        ));
    }
    close(state_dir, DEPTH).with_context(named)
}

fn close(path: &Path, depth: usize) -> std::io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let wanted = match found.file_type() {
        kind if kind.is_dir() => DIR,
        kind if kind.is_file() => FILE,
        _ => return Ok(()),
    };
    if found.permissions().mode() & 0o777 != wanted {
        fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    if wanted == DIR && depth > 0 {
        for entry in fs::read_dir(path)? {
            close(&entry?.path(), depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn files_that_an_older_agent_left_readable_by_all_become_private() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("state");
        fs::create_dir_all(dir.join("endpoints")).expect("a folder");
        let (old, outside) = (dir.join("endpoints/a.json"), parent.path().join("b"));
        for path in [&old, &outside] {
            fs::write(path, "{}").expect("a disk");
            fs::set_permissions(path, Permissions::from_mode(0o644)).expect("ours");
        }
        std::os::unix::fs::symlink(&outside, dir.join("link")).expect("a disk");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("ours");
        own(&dir).expect("a folder of our own");
        assert_eq!((mode(&dir), mode(&dir.join("endpoints")), mode(&old)), (0o700, 0o700, 0o600));
        assert_eq!(mode(&outside), 0o644, "what a link leads to is somebody else's");
        replace(&old, b"{}").expect("a disk");
        assert_eq!(mode(&old), 0o600);
    }

    #[test]
    fn world_writable_folder_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).expect("ours");
        let told = own(dir.path()).expect_err("refused").to_string();
        assert!(told.contains("everybody may write") && told.contains("--state-dir"), "{told}");
        assert_eq!(mode(dir.path()), 0o777);
    }
}
