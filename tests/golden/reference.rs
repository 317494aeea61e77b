//! Reference files and how near ours comes to them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use active_vlm::engine::probe;
use safetensors::tensor::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

/// Where the models are: on the CPU, or on the device that `TEST_DEVICE` names.
pub fn device() -> Device {
    let name = std::env::var("TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    probe::device(&name).expect("the device of TEST_DEVICE opens");
    active_vlm::model::device(&name).expect("what opens has a name")
}

/// A reference file: its tensors and what its inputs were.
pub struct Reference {
    tensors: BTreeMap<String, Tensor>,
    about: HashMap<String, String>,
}

impl Reference {
    /// Reads a file of `tests/golden` by its name without ending.
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.safetensors"));
        let bytes = std::fs::read(path).expect("the reference file is in the repository");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a header");
        let about = header.metadata().clone().expect("metadata");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensor = |(name, view): (String, safetensors::tensor::TensorView)| {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::I64 => Kind::Int64,
                Dtype::U8 => Kind::Uint8,
                other => panic!("{name} is {other:?}"),
            };
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            (name, Tensor::from_data_size(view.data(), &shape, kind))
        };
        Self { tensors: file.tensors().into_iter().map(tensor).collect(), about }
    }

    /// A tensor that has to be there.
    pub fn get(&self, name: impl AsRef<str>) -> &Tensor {
        self.tensors.get(name.as_ref()).unwrap_or_else(|| panic!("no reference '{}'", name.as_ref()))
    }

    /// Tensors whose name begins with `start`, by the rest of their names.
    pub fn under(&self, start: &str) -> Vec<(&str, &Tensor)> {
        self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(start)?, tensor))).collect()
    }

    pub fn ids(&self, name: impl AsRef<str>) -> Vec<i64> {
        Vec::try_from(self.get(name)).expect("int64 in one dimension")
    }

    pub fn bytes(&self, name: impl AsRef<str>) -> Vec<u8> {
        Vec::try_from(self.get(name)).expect("uint8 in one dimension")
    }

    /// A metadata entry as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_str(&self.about[key]).expect("JSON")
    }

    /// A metadata entry as text.
    pub fn text(&self, key: &str) -> &str {
        &self.about[key]
    }
}

/// Largest difference, relative to the largest value of the reference.
pub fn relative(ours: &Tensor, reference: &Tensor) -> f64 {
    assert_eq!(ours.size(), reference.size());
    let (ours, reference) = (ours.to_device(Device::Cpu), reference.to_device(Device::Cpu));
    let worst = (ours - &reference).abs().max().double_value(&[]);
    worst / reference.abs().max().double_value(&[])
}

pub fn assert_close(ours: &Tensor, reference: &Tensor, tolerance: f64, what: &str) {
    let distance = relative(ours, reference);
    // NaN is not close.
    assert!(distance <= tolerance, "{what}: relative difference {distance:e} above {tolerance:e}");
    println!("{what}: {distance:.1e}");
}
