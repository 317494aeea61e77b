//! Safetensors files: one or sharded, memory-mapped for reading, written whole.
//!
//! Invariant: opening reads only headers; a tensor's bytes are touched when it is asked for. Names and shapes are
//! checked against the architecture before any weight is copied, and an error names the tensor.
//! Deliberately absent: pickled checkpoints, which can run code.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::{Device, Kind, Tensor};

use super::config::{Config, Family};
use super::layout::{self, HEAD, Params, Spec, layout};
use super::{ModelError, files};

const CURE: &str = "fetch the weights again, in the safetensors format";

/// The weights of a folder, mapped but not loaded. Cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    dir: PathBuf,
    entries: Arc<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    file: Arc<(PathBuf, Mmap)>,
    dtype: Dtype,
    shape: Vec<i64>,
    bytes: std::ops::Range<usize>,
}

impl Weights {
    /// Maps `model.safetensors`, or the shards named by `model.safetensors.index.json`. Tensors are known by the
    /// reference's names from here on.
    pub fn open(dir: &Path, family: Family) -> Result<Self, ModelError> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        let files = if single.exists() || !index.exists() { vec![single] } else { shards(dir, &index)? };
        let mut entries = BTreeMap::new();
        for path in files {
            map_file(&path, family, &mut entries)?;
        }
        Ok(Self { dir: dir.to_path_buf(), entries: Arc::new(entries) })
    }

    /// Checks that the names and shapes are exactly the configuration's.
    pub fn check(&self, config: &Config) -> Result<(), ModelError> {
        let specs: HashMap<String, Spec> = layout(config).into_iter().map(|s| (s.name.clone(), s)).collect();
        for spec in specs.values() {
            let Some(entry) = self.entries.get(&spec.name) else {
                return Err(ModelError::MissingTensor { path: self.dir.clone(), name: spec.name.clone() });
            };
            if entry.shape != spec.shape {
                return Err(ModelError::Shape {
                    path: entry.file.0.clone(),
                    name: spec.name.clone(),
                    expected: spec.shape.clone(),
                    found: entry.shape.clone(),
                });
            }
        }
        // Some writers store the tied head a second time: it is the embedding table, so it is left unread.
        let known = |name: &str| specs.contains_key(name) || (config.tie_word_embeddings && name == HEAD);
        match self.entries.iter().find(|(name, _)| !known(name)) {
            Some((name, entry)) => {
                Err(ModelError::SurplusTensor { path: entry.file.0.clone(), name: name.clone() })
            }
            None => Ok(()),
        }
    }

    /// Copies every tensor of the configuration to the device.
    ///
    /// Host memory beside the weights themselves is one tensor: the pages of a file are let go as it is read.
    pub fn load(&self, config: &Config, device: Device, kind: Kind) -> Result<Params, ModelError> {
        self.check(config)?;
        let mut params = Params::new();
        for spec in layout(config) {
            let entry = &self.entries[&spec.name];
            let (path, map) = &*entry.file;
            let tensor = tensor(path, &spec.name, entry.dtype, &entry.shape, &map[entry.bytes.clone()])?;
            params.insert(spec.name, tensor.to_kind(kind).to_device(device));
            release(map, &entry.bytes);
        }
        Ok(params)
    }

    /// The kind of number that most scalars are stored as.
    pub fn kind(&self) -> Kind {
        let mut bytes: BTreeMap<Dtype, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            *bytes.entry(entry.dtype).or_default() += entry.bytes.len();
        }
        match bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype) {
            Some(Dtype::BF16) => Kind::BFloat16,
            Some(Dtype::F16) => Kind::Half,
            _ => Kind::Float,
        }
    }

    /// Bytes of all tensors as stored.
    pub fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes.len() as u64).sum()
    }
}

/// Tells the system that these bytes of the file are not needed soon.
fn release(map: &Mmap, bytes: &std::ops::Range<usize>) {
    // SAFETY: the mapping is of a file and read-only, so a page that is dropped is read from the file again when it is
    // touched; nothing is lost by it.
    let released =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    if let Err(error) = released {
        tracing::debug!(%error, "the pages of a weights file stay mapped");
    }
}

fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let json: serde_json::Value =
        serde_json::from_slice(&files::read(index)?).map_err(|e| ModelError::folder(index, e, CURE))?;
    let map =
        json["weight_map"].as_object().ok_or_else(|| ModelError::folder(index, "no weight_map", CURE))?;
    if let Some((tensor, _)) = map.iter().find(|(_, file)| !file.is_string()) {
        return Err(ModelError::folder(index, format!("tensor '{tensor}' names no file"), CURE));
    }
    let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // A shard is a plain file name: an index must not lead out of the model folder.
    if let Some(bad) = names.iter().find(|n| Path::new(n).file_name() != Some(std::ffi::OsStr::new(n))) {
        return Err(ModelError::folder(index, format!("shard '{bad}' is not a plain file name"), CURE));
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}

fn map_file(path: &Path, family: Family, entries: &mut BTreeMap<String, Entry>) -> Result<(), ModelError> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: the mapping is read-only; model folders are not rewritten in place while a service reads them
    // (save writes beside and renames), which is the condition memmap2 asks for.
    let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
    let (header, metadata) =
        SafeTensors::read_metadata(&map).map_err(|e| ModelError::folder(path, e, CURE))?;
    let start = 8 + header; // eight bytes of header length come first
    let file = Arc::new((path.to_path_buf(), map));
    for (name, info) in metadata.tensors() {
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        let shape = whole(&info.shape).ok_or_else(|| ModelError::folder(path, oversize(&name), CURE))?;
        let name = layout::from_file(family, &name);
        if let Some(twice) =
            entries.insert(name.clone(), Entry { file: file.clone(), dtype: info.dtype, shape, bytes })
        {
            let what = format!("tensor '{name}' is also in {}", twice.file.0.display());
            return Err(ModelError::folder(path, what, CURE));
        }
    }
    Ok(())
}

/// A shape as torch counts. A side beyond its numbers passes the format's own check where another side is zero.
fn whole(shape: &[usize]) -> Option<Vec<i64>> {
    shape.iter().map(|&n| i64::try_from(n).ok()).collect()
}

fn oversize(name: &str) -> String {
    format!("tensor '{name}' has a side beyond 2^63")
}

fn tensor(path: &Path, name: &str, dtype: Dtype, shape: &[i64], data: &[u8]) -> Result<Tensor, ModelError> {
    let kind = match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::BOOL => Kind::Bool,
        other => {
            let what = format!("tensor '{name}' has type {other:?}");
            return Err(ModelError::folder(path, what, "use weights in float32, float16 or bfloat16"));
        }
    };
    Ok(Tensor::from_data_size(data, shape, kind))
}

/// Tensors and metadata as the bytes of a safetensors file.
pub(crate) fn to_bytes(
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, ModelError> {
    let fail = |e: &dyn ToString| ModelError::adapter(e.to_string(), "report this as a defect");
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        parts.push((name.as_str(), dtype(name, tensor.kind())?, shape, numbers(tensor)));
    }
    let mut views = Vec::with_capacity(parts.len());
    for (name, dtype, shape, bytes) in &parts {
        views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| fail(&e))?));
    }
    serialize(views, Some(metadata)).map_err(|e| fail(&e))
}

/// A safetensors file held in memory: its tensors and its metadata.
pub(crate) type Stored = (BTreeMap<String, Tensor>, HashMap<String, String>);

/// Every tensor and the metadata of the bytes of a safetensors file.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Stored, ModelError> {
    let fail =
        |e: &dyn ToString| ModelError::adapter(e.to_string(), "the blob is damaged: use another version");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| fail(&e))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| fail(&e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let shape = whole(view.shape()).ok_or_else(|| fail(&oversize(&name)))?;
        let made = tensor(Path::new("snapshot"), &name, view.dtype(), &shape, view.data())?;
        tensors.insert(name, made);
    }
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// A tensor that is turned into bytes only when its turn to be written comes.
struct Late {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl safetensors::View for &Late {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        numbers(&self.tensor).into()
    }
    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// A tensor's numbers as bytes.
fn numbers(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn dtype(name: &str, kind: Kind) -> Result<Dtype, ModelError> {
    Ok(match kind {
        Kind::Double => Dtype::F64,
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        other => {
            let what = format!("tensor '{name}' of kind {other:?} cannot be written");
            return Err(ModelError::adapter(what, "report this as a defect"));
        }
    })
}

/// Writes `model.safetensors` under the names of the family's own files: beside first, then renamed, so that a reader
/// never sees half a file. One tensor at a time is held as bytes.
pub(crate) fn write(dir: &Path, family: Family, params: &Params) -> Result<(), ModelError> {
    let mut views = Vec::with_capacity(params.len());
    for (name, tensor) in params {
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        let late = Late { tensor: tensor.shallow_clone(), dtype: dtype(name, tensor.kind())?, shape };
        views.push((layout::in_file(family, name), late));
    }
    // The reference refuses files without this mark.
    let about = HashMap::from([("format".to_string(), "pt".to_string())]);
    let (path, beside) = (dir.join("model.safetensors"), dir.join(".model.safetensors.part"));
    let parts = views.iter().map(|(name, late)| (name.as_str(), late));
    safetensors::serialize_to_file(parts, Some(about), &beside)
        .map_err(|e| ModelError::folder(&beside, e, "check the disk's space and the folder's permissions"))?;
    std::fs::rename(&beside, &path).map_err(ModelError::io(&path))
}
