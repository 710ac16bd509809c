//! Kernels: CUDA C++ files beside their ops, compiled by NVRTC for the card found and cached on disk.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaFunction, CudaModule, sys as driver};
use cudarc::nvrtc::{Ptx, result as nvrtc, sys};

use super::tensor_map::TensorMap;
use super::{Cuda, cache};
use crate::gpu::{Argument, KernelCall, KernelFile, fail};
use crate::profile;

const PRELUDE: &str = include_str!("../ops/prelude.cuh");

/// The dynamic shared memory that needs no request. A block has 48 KiB without one, and what a kernel declares itself
/// counts too.
const USUAL_SHARED_BYTES: u32 = 32 << 10;

/// Defines a `Source` for every .cu file of this crate.
macro_rules! sources {
    ($($name:ident: $($path:literal)+),* $(,)?) => {
        $(#[allow(non_upper_case_globals)]
        pub(crate) const $name: KernelFile = KernelFile(stringify!($name), &[$(($path, include_str!($path))),+]);)*
        #[cfg(test)]
        pub(crate) const ALL: &[KernelFile] = &[$($name),*];
    };
}

pub(crate) mod sources {
    use crate::gpu::KernelFile;

    sources! {
        argmax: "../ops/argmax/argmax.cu",
        attention: "../ops/mma.cuh" "../ops/attention/attention.cu",
        attention_sm90: "../ops/attention/attention_sm90.cu",
        decode_attention: "../ops/mma.cuh" "../ops/decode_attention/decode_attention.cu",
        decode_linear: "../ops/mma.cuh" "../ops/decode_linear/decode_linear.cu",
        elementwise: "../elementwise/elementwise.cu",
        embedding: "../ops/embedding/embedding.cu",
        linear_softcap_cross_entropy: "../ops/linear_softcap_cross_entropy/linear_softcap_cross_entropy.cu",
        optim: "../optim/optim.cu",
        paged: "../ops/paged/paged.cu",
        paged_attention: "../ops/mma.cuh" "../ops/paged/paged_attention.cu",
        mlp: "../ops/mlp/mlp.cu",
        rms_norm: "../ops/rms_norm/rms_norm.cu",
        rotary_qk_norm: "../ops/rotary_qk_norm/rotary_qk_norm.cu",
        sample: "../ops/sample/sample.cu",
        take_rows: "../ops/take_rows/take_rows.cu",
    }
}

/// Returns the architecture to compile for. The `a` of Hopper and Blackwell enables instructions of that generation;
/// the code then runs on that generation only, which is the card found.
///
/// NANOCHAT_CUDA_PORTABLE, if set, leaves the `a` out on Hopper, to try the kernels of other cards there.
pub(super) fn architecture((major, minor): (i32, i32)) -> &'static str {
    match (major, minor) {
        (9, _) if std::env::var_os("NANOCHAT_CUDA_PORTABLE").is_some() => "sm_90",
        (8, 0) => "sm_80",
        (8, 9) => "sm_89",
        (8, _) => "sm_86",
        (9, _) => "sm_90a",
        (10, 3) => "sm_103a",
        (10, _) => "sm_100a",
        (12, 1) => "sm_121a",
        _ => "sm_120a",
    }
}

pub(super) struct Kernels {
    arch: &'static str,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<String, CudaFunction>>,
}

impl Kernels {
    pub fn new(arch: &'static str) -> Kernels {
        Kernels { arch, modules: Mutex::default(), functions: Mutex::default() }
    }
}

impl Cuda {
    /// Launches a kernel.
    ///
    /// # Safety
    /// The same as for [`GpuBackend::launch`](crate::gpu::GpuBackend::launch).
    pub(super) unsafe fn start(
        &self,
        kernel: &KernelCall,
        grid: [usize; 3],
        threads: u32,
        shared_bytes: u32,
    ) {
        self.bind();
        let function = self.function(kernel.file, &kernel.name);
        let overlaps = kernel.overlaps && self.overlaps();
        if shared_bytes > USUAL_SHARED_BYTES {
            let attribute = driver::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.check(function.set_attribute(attribute, shared_bytes as i32), "asking for shared memory");
        }
        if overlaps {
            // A multiprocessor can divide its memory anew only when it is empty, so kernels that overlap must use the
            // same division.
            let attribute = driver::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            self.check(function.set_attribute(attribute, 100), "dividing shared memory");
        }
        let mut overlap = driver::CUlaunchAttribute {
            id: driver::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: driver::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        let config = driver::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlap,
            numAttrs: u32::from(overlaps),
        };
        let maps: Vec<TensorMap> =
            kernel.arguments.iter().filter_map(|argument| self.map_of(argument)).collect();
        let mut maps = maps.iter();
        // Returns the address from which the driver reads an argument.
        let address = |argument: &Argument| -> *mut c_void {
            let address: *const c_void = match argument {
                Argument::U32(value) => (&raw const *value).cast(),
                Argument::U64(value) => (&raw const *value).cast(),
                Argument::F32(value) => (&raw const *value).cast(),
                Argument::Tiles(_) => (&raw const *maps.next().expect("a map for each tensor")).cast(),
            };
            address.cast_mut()
        };
        let mut addresses: Vec<*mut c_void> = kernel.arguments.iter().map(address).collect();
        let (function, addresses) = (function.cu_function(), addresses.as_mut_ptr());
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        let start = || unsafe {
            driver::cuLaunchKernelEx(&config, function, addresses, std::ptr::null_mut()).result()
        };
        let started = profile::kernel(|| kernel.name.clone(), start);
        self.check(started, &kernel.name);
    }

    fn map_of(&self, argument: &Argument) -> Option<TensorMap> {
        match argument {
            Argument::Tiles(tiles) => Some(self.tensor_map(tiles)),
            Argument::U32(_) | Argument::U64(_) | Argument::F32(_) => None,
        }
    }

    /// Returns a kernel of a file, which is compiled and loaded at its first use.
    fn function(&self, KernelFile(file, parts): KernelFile, name: &str) -> CudaFunction {
        let mut functions = self.kernels.functions.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(function) = functions.get(name) {
            return function.clone();
        }
        let mut modules = self.kernels.modules.lock().unwrap_or_else(|e| e.into_inner());
        let module = modules.entry(file).or_insert_with(|| {
            let kept = cache::folder().map(|folder| folder.join(kept_name(file, parts, self.kernels.arch)));
            self.load(file, parts, kept.as_deref())
        });
        let function = self.check(module.load_function(name), name);
        functions.insert(name.to_string(), function.clone());
        function
    }

    /// Loads the kernels of a file: from the cached file `kept` if it is whole and the driver accepts it, else compiled
    /// again.
    fn load(&self, file: &str, parts: &[(&str, &str)], kept: Option<&Path>) -> Arc<CudaModule> {
        let load = |cubin| self.context.load_module(Ptx::from_binary(cubin));
        if let Some(module) = kept.and_then(cache::read).and_then(|cubin| load(cubin).ok()) {
            return module;
        }
        let arch = self.kernels.arch;
        let cubin = compile(file, &joined(parts), arch).unwrap_or_else(|log| {
            fail(format!("NVRTC did not compile {file}.cu for {arch}: {log}"));
        });
        // A failed write costs seconds at the next start and nothing else.
        if let Some(kept) = kept {
            cache::write(kept, &cubin);
        }
        self.check(load(cubin), "loading a kernel")
    }
}

/// Returns the name of a file's machine code in the cache.
fn kept_name(file: &str, parts: &[(&str, &str)], arch: &str) -> String {
    format!("{file}-{arch}-{:016x}.cubin", cache::hash(joined(parts).as_bytes()))
}

/// Joins the parts of a file, each with the name under which its errors are reported.
fn joined(parts: &[(&str, &str)]) -> String {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
    let part = |(path, text): &(&str, &str)| format!("\n#line 1 \"{}\"\n{text}", name(path));
    PRELUDE.to_string() + &parts.iter().map(part).collect::<String>()
}

/// Compiles a file to machine code for one architecture; the error is the compiler's log.
fn compile(file: &str, source: &str, arch: &str) -> Result<Vec<u8>, String> {
    let source = CString::new(source).map_err(|e| e.to_string())?;
    let name = CString::new(format!("{file}.cu")).map_err(|e| e.to_string())?;
    let program = nvrtc::create_program(&source, Some(&name)).map_err(|e| e.to_string())?;
    let options = [format!("--gpu-architecture={arch}"), "--std=c++17".to_string()];
    // SAFETY: the program was just made and is destroyed once, after its log and code were copied out.
    unsafe {
        let outcome = match nvrtc::compile_program(program, &options) {
            Ok(()) => cubin(program).map_err(|e| e.to_string()),
            Err(e) => Err(nvrtc::get_program_log(program).map_or_else(
                |_| e.to_string(),
                |log| CStr::from_ptr(log.as_ptr()).to_string_lossy().trim().to_string(),
            )),
        };
        let _ = nvrtc::destroy_program(program);
        outcome
    }
}

/// # Safety
/// `program` must have been compiled.
unsafe fn cubin(program: sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    let mut size = 0;
    // SAFETY: NVRTC writes `size` bytes, which the vector holds.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut code = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::super::libraries;
    use super::*;
    use crate::Device;
    use crate::testing::gpu;

    /// Compiles every kernel for every generation, without a GPU. Needs NVRTC from the system, from a toolkit, or from
    /// the Python wheels in the folder NANOCHAT_CUDA_LIBRARIES.
    #[test]
    fn every_kernel_compiles_for_every_architecture() {
        libraries::preload();
        if libraries::find("nvrtc").is_none() {
            crate::testing::skip("NVRTC is not here", "NANOCHAT_REQUIRE_NVRTC");
            return;
        }
        for arch in ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"] {
            for KernelFile(file, parts) in sources::ALL {
                if file.ends_with("_sm90") && arch != "sm_90a" {
                    continue;
                }
                let cubin = compile(file, &joined(parts), arch);
                assert!(cubin.as_ref().is_ok_and(|code| !code.is_empty()), "{file}.cu, {arch}: {cubin:?}");
            }
        }
    }

    #[test]
    fn a_mistake_in_a_kernel_is_named_by_file_and_line() {
        libraries::preload();
        if libraries::find("nvrtc").is_some() {
            let log = compile("broken", &joined(&[("ops/broken.cu", "\nvoid f() { g(); }")]), "sm_90a")
                .unwrap_err();
            assert!(log.contains("broken.cu(2)"), "{log}");
        }
    }

    /// Damages the cached file, then replaces it with a whole file that is not machine code.
    #[test]
    fn kernels_whose_kept_code_is_damaged_are_compiled_anew() {
        let Some(Device::Gpu(gpu)) = gpu() else { return };
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("take_rows.cubin");
        let KernelFile(file, parts) = sources::take_rows;
        let load = || Cuda::of(&gpu).load(file, parts, Some(&kept)).load_function("take_rows").unwrap();
        load();
        let good = std::fs::read(&kept).unwrap();
        let mut other = good.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        for damaged in [&[][..], &good[..100], &other] {
            std::fs::write(&kept, damaged).unwrap();
            load();
            assert!(std::fs::read(&kept).unwrap() == good, "{} damaged bytes were kept", damaged.len());
        }
        cache::write(&kept, b"whole, and no machine code");
        load();
        assert!(std::fs::read(&kept).unwrap() == good);
    }
}
