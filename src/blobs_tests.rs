//! Blobs in a folder of their own: keys, damage, refusals.

use super::*;

fn local() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().expect("a temp folder");
    let blobs = Blobs::open(None, &folder.path().join("blobs")).expect("a writable temp folder");
    (folder, blobs)
}

fn file(folder: &tempfile::TempDir, key: &BlobKey) -> PathBuf {
    folder.path().join("blobs").join(key.as_str())
}

#[tokio::test]
async fn what_is_put_is_got_under_the_hash_of_its_content() {
    let (folder, blobs) = local();
    let key = blobs.put(BlobKind::Image, Bytes::from_static(b"abc")).await.expect("a put");
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(key.as_str(), format!("images/ba/{digest}"));
    assert_eq!(key.sha256(), digest);
    blobs.sync().await.expect("a sync");
    assert_eq!(blobs.get(&key).await.expect("a get"), "abc");
    assert_eq!(std::fs::read(file(&folder, &key)).expect("a plain file"), b"abc");
    assert!(blobs.exists(&key).await.expect("an answer"));
    assert_eq!(blobs.beginning(&key, 2).await.expect("a part"), "ab");
    assert_eq!(blobs.beginning(&key, 9).await.expect("all there is"), "abc");
    let other = BlobKey::of(BlobKind::Image, b"other");
    assert!(matches!(blobs.beginning(&other, 9).await, Err(BlobError::Missing(_))));
}

#[tokio::test]
async fn an_existing_blob_is_not_rewritten_but_a_cut_off_one_is() {
    let (folder, blobs) = local();
    let content = Bytes::from_static(b"weights");
    let key = blobs.put(BlobKind::Adapter, content.clone()).await.expect("a put");
    let path = file(&folder, &key);
    let inode = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).expect("a file").ino()
    };
    let before = inode(&path);
    assert_eq!(blobs.put(BlobKind::Adapter, content.clone()).await.expect("a put"), key);
    assert_eq!(inode(&path), before);
    std::fs::write(&path, b"wei").expect("a writable file");
    blobs.put(BlobKind::Adapter, content.clone()).await.expect("a put");
    assert_eq!(blobs.get(&key).await.expect("a get"), content);
}

#[tokio::test]
async fn missing_and_damaged_blobs_are_told_apart() {
    let (folder, blobs) = local();
    let key = blobs.put(BlobKind::Checkpoint, Bytes::from_static(b"step 7")).await.expect("a put");
    std::fs::write(file(&folder, &key), b"step 8").expect("a writable file");
    assert!(matches!(blobs.get(&key).await, Err(BlobError::Damaged(_))));
    blobs.delete(&key).await.expect("a delete");
    blobs.delete(&key).await.expect("a second delete is the same");
    assert!(!blobs.exists(&key).await.expect("an answer"));
    let message = blobs.get(&key).await.expect_err("nothing there").to_string();
    assert!(message.contains(key.as_str()), "{message}");
}

#[tokio::test]
async fn a_refusal_for_good_is_told_from_trouble_that_may_pass() {
    let key = BlobKey::of(BlobKind::Image, b"abc");
    let denied = |kind| object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(std::io::Error::from(kind)),
    };
    for kind in [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::ReadOnlyFilesystem] {
        assert!(matches!(store_error(&key, denied(kind)), BlobError::Refused { .. }), "{kind}");
    }
    let message = store_error(&key, refusal("AccessDenied")).to_string();
    assert!(message.contains("AccessDenied") && message.contains("for good"), "{message}");
    let passing = store_error(&key, denied(std::io::ErrorKind::TimedOut));
    assert!(matches!(passing, BlobError::Store { .. }), "{passing}");
}

#[tokio::test]
async fn a_disk_without_room_is_told_with_where_and_what_to_do_and_leaves_nothing_behind() {
    let (folder, blobs) = local();
    blobs.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let content = Bytes::from_static(b"weights");
    let error = blobs.put(BlobKind::Checkpoint, content.clone()).await.expect_err("no room");
    let text = error.to_string();
    assert!(matches!(error, BlobError::Full { needed: 7, .. }), "{text}");
    let place = folder.path().display().to_string();
    for part in [&place, "No space left", "no room for 7 bytes", "MiB left", "free some space"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let key = BlobKey::of(BlobKind::Checkpoint, &content);
    assert!(!blobs.exists(&key).await.expect("an answer"));
    blobs.full.store(false, std::sync::atomic::Ordering::SeqCst);
    blobs.put(BlobKind::Checkpoint, content).await.expect("room again");
    for errno in [nix::errno::Errno::ENOSPC, nix::errno::Errno::EDQUOT, nix::errno::Errno::EFBIG] {
        assert!(is_full(std::io::Error::from(errno).kind()), "{errno}");
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_does_not_answer() {
    let (folder, blobs) = local();
    blobs.probe().await.expect("a sign of life");
    std::fs::remove_dir_all(folder.path().join("blobs")).expect("a folder to remove");
    assert!(matches!(blobs.probe().await, Err(BlobError::Folder { .. })));
}

#[test]
fn keys_are_read_back_and_other_text_is_refused() {
    let key = BlobKey::of(BlobKind::Image, b"abc");
    assert_eq!(key.as_str().parse::<BlobKey>().expect("a key"), key);
    let hex = key.sha256();
    for bad in
        ["", "images/ab", "../../etc/passwd", &format!("secrets/ba/{hex}"), &format!("images/aa/{hex}")]
    {
        assert!(matches!(bad.parse::<BlobKey>(), Err(BlobError::BadKey(_))), "{bad}");
    }
}

#[test]
fn a_url_that_names_no_store_is_refused_with_the_forms_that_do() {
    let folder = tempfile::tempdir().expect("a temp folder");
    for bad in ["bucket", "ftp://host/x", "s3:///x"] {
        let message = Blobs::open(Some(bad), folder.path()).expect_err("a refusal").to_string();
        assert!(message.contains(bad) && message.contains("s3://bucket"), "{message}");
    }
    let url = format!("file://{}/elsewhere", folder.path().display());
    Blobs::open(Some(&url), Path::new("unused")).expect("a folder by URL");
    assert!(folder.path().join("elsewhere").is_dir());
    Blobs::open(Some("s3://bucket/some/prefix"), Path::new("unused")).expect("no request is made yet");
}

#[tokio::test]
async fn many_are_put_at_once_locally_and_remotely_and_again_without_harm() {
    let (_folder, local) = local();
    let remote = Blobs::over(Arc::new(object_store::memory::InMemory::new()), None);
    let many: Vec<(BlobKey, Bytes)> = (0..40_u8)
        .map(|n| Bytes::from(vec![n; 100]))
        .map(|content| (BlobKey::of(BlobKind::Image, &content), content))
        .collect();
    for blobs in [local, remote] {
        blobs.put_all(many.clone()).await.expect("a put of all");
        blobs.put_all(many.clone()).await.expect("a put of what is there");
        for (key, content) in &many {
            assert_eq!(&blobs.get(key).await.expect("a get"), content);
        }
    }
}

#[tokio::test]
async fn one_that_cannot_be_put_among_many_is_told() {
    let (folder, blobs) = local();
    let contents = [&b"one"[..], b"two", b"three"];
    let many = contents.map(|content| (BlobKey::of(BlobKind::Image, content), Bytes::from_static(content)));
    // A folder with something in it stands where the second file should.
    std::fs::create_dir_all(file(&folder, &many[1].0).join("x")).expect("a folder");
    let error = blobs.put_all(many.to_vec()).await.expect_err("no place for the second");
    assert!(error.to_string().contains(many[1].0.as_str()), "{error}");
}
