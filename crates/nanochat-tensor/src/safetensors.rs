//! Weights on disk in the safetensors format: reads f32, bf16 and f16, writes f32 and bf16.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo, View};
use safetensors::{SafeTensors, serialize_to_file};

use crate::{Dtype, Tensor};

#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    #[error("failed to read {}: {error}", path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("failed to write {}: {message}", path.display())]
    Write { path: PathBuf, message: String },
    #[error("{} is not a whole safetensors file: {message}", path.display())]
    Corrupt { path: PathBuf, message: String },
    #[error("{}: tensor {name} has type {dtype}; f32, bf16 and f16 can be read", path.display())]
    Dtype { path: PathBuf, name: String, dtype: String },
}

/// An open file: the names, types and shapes are known, the values are still on disk.
pub struct TensorFile {
    path: PathBuf,
    bytes: Mmap,
    /// The offset in the file at which the values begin.
    start: usize,
    header: Metadata,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<TensorFile, SafetensorsError> {
        let read = |error| SafetensorsError::Read { path: path.into(), error };
        let file = File::open(path).map_err(read)?;
        // SAFETY: the map is read-only and lives no longer than the loading of a model. If another process truncates
        // the file meanwhile, the read faults; but checkpoints are written elsewhere and renamed, never changed.
        let bytes = unsafe { Mmap::map(&file) }.map_err(read)?;
        let corrupt = |e: safetensors::SafeTensorError| SafetensorsError::Corrupt {
            path: path.into(),
            message: e.to_string(),
        };
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(corrupt)?;
        Ok(TensorFile { path: path.into(), bytes, start: size_of::<u64>() + length, header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the names of all tensors, in the order in which they lie in the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Returns the shape of a tensor; None if the file has no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|tensor| &tensor.shape[..])
    }

    /// Fails if the tensor's type cannot be read, without reading its values.
    ///
    /// # Panics
    /// If the file has no such tensor.
    pub fn check_type(&self, name: &str) -> Result<(), SafetensorsError> {
        match self.header.info(name).expect("a tensor of this file").dtype {
            FileDtype::F32 | FileDtype::BF16 | FileDtype::F16 => Ok(()),
            dtype => {
                let (path, name, dtype) = (self.path.clone(), name.into(), format!("{dtype:?}"));
                Err(SafetensorsError::Dtype { path, name, dtype })
            }
        }
    }

    /// Reads the values of a tensor, converted to f32.
    ///
    /// # Panics
    /// If the file has no such tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        self.check_type(name)?;
        let TensorInfo { dtype, shape, data_offsets: (from, to) } =
            self.header.info(name).expect("a tensor of this file");
        let bytes = &self.bytes[self.start..][*from..*to];
        let (pairs, _) = bytes.as_chunks::<2>();
        let (quads, _) = bytes.as_chunks::<4>();
        let values = match dtype {
            FileDtype::BF16 => pairs.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            FileDtype::F16 => pairs.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            _ => quads.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        Ok(Tensor::new(values, shape))
    }
}

/// Reads all tensors of a file, by name, converted to f32.
pub fn load(path: &Path) -> Result<BTreeMap<String, Tensor>, SafetensorsError> {
    let file = TensorFile::open(path)?;
    let tensor = |name: String| Ok((name.clone(), file.tensor(&name)?));
    file.names().into_iter().map(tensor).collect()
}

/// Writes the tensors to `path` through a temporary sibling, as f32 or bf16, and waits until they are on disk.
pub fn save<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    dtype: Dtype,
) -> Result<(), SafetensorsError> {
    let error = |message: String| SafetensorsError::Write { path: path.into(), message };
    file_dtype(dtype).map_err(&error)?;
    let views = tensors.into_iter().map(|(name, tensor)| (name, SavedTensor { tensor, dtype }));
    // transformers requires the name of the framework whose layout this is; ours is PyTorch's.
    let metadata = [("format".to_string(), "pt".to_string())].into();
    serialize_to_file(views, Some(metadata), path).map_err(|e| error(e.to_string()))?;
    File::open(path).and_then(readable_and_on_disk).map_err(|e| error(e.to_string()))
}

/// Makes the file readable for all users and waits until it is on disk. The library writes through a temporary file
/// that only its owner may read; a model is for sharing.
fn readable_and_on_disk(file: File) -> std::io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.sync_all()
}

/// Returns the format's own name of a type; the error says which types are not written.
fn file_dtype(dtype: Dtype) -> Result<FileDtype, String> {
    match dtype {
        Dtype::F32 => Ok(FileDtype::F32),
        Dtype::Bf16 => Ok(FileDtype::BF16),
        Dtype::Int8 | Dtype::U32 => Err(format!("weights are written in f32 or bf16, not in {dtype}")),
    }
}

struct SavedTensor<'a> {
    tensor: &'a Tensor,
    dtype: Dtype,
}

impl View for SavedTensor<'_> {
    fn dtype(&self) -> FileDtype {
        file_dtype(self.dtype).expect("`save` refuses the others")
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.tensor.host();
        match self.dtype {
            Dtype::F32 if cfg!(target_endian = "little") => match data {
                Cow::Borrowed(data) => Cow::Borrowed(bytemuck::cast_slice(data)),
                Cow::Owned(data) => Cow::Owned(bytemuck::cast_slice(&data).to_vec()),
            },
            Dtype::F32 => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::Bf16 => data.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Int8 | Dtype::U32 => unreachable!("`save` refuses {}", self.dtype),
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.len() * self.dtype.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::randn;

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("x.safetensors")
    }

    #[test]
    fn values_and_shapes_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (randn(&[3, 5], 0), randn(&[7], 1));
        let named = || [("a".to_string(), &a), ("b".to_string(), &b)];
        save(&file(&dir), named(), Dtype::F32).unwrap();
        let loaded = load(&file(&dir)).unwrap();
        assert_eq!((loaded["a"].shape(), loaded["a"].data()), (a.shape(), a.data()));
        assert_eq!(loaded["b"].data(), b.data());
        save(&file(&dir), named(), Dtype::Bf16).unwrap();
        let loaded = load(&file(&dir)).unwrap();
        crate::testing::assert_close(loaded["a"].data(), a.data(), 1.0 / 256.0);
    }

    #[test]
    fn damaged_files_are_refused_with_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir);
        assert!(matches!(load(&path), Err(SafetensorsError::Read { .. })));
        save(&path, [("a".to_string(), &randn(&[3, 5], 0))], Dtype::F32).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("x.safetensors"), "{len}: {error}");
        }
        for header in
            ["{}", "[]", r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#]
        {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes().chain([0; 8]));
            std::fs::write(&path, bytes).unwrap();
            assert!(load(&path).is_err(), "{header}");
        }
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let error = save(Path::new("/no/such/folder/x"), [("a".to_string(), &randn(&[3], 0))], Dtype::F32);
        assert!(error.unwrap_err().to_string().contains("/no/such/folder/x"));
    }
}
