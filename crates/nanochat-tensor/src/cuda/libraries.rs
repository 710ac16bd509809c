//! Finds NVIDIA's libraries: where the system's loader looks, in a CUDA toolkit, and in Python wheels.
//!
//! cudarc opens a library by a plain name such as `libnvrtc.so.13`. A library that lies elsewhere is opened here first,
//! by its path and with global symbols; the loader then uses it for the later request by name.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cudarc::driver::sys;

use super::DeviceError;

/// A library that training needs.
pub struct Needed {
    pub name: &'static str,
    pub what_for: &'static str,
    /// The Python package that contains it.
    pub wheel: &'static str,
    /// The Linux package that contains it, without the version at the end of the name.
    pub package: &'static str,
}

pub const NEEDED: [Needed; 2] = [
    Needed {
        name: "nvrtc",
        what_for: "compiles the kernels",
        wheel: "nvidia-cuda-nvrtc",
        package: "cuda-nvrtc",
    },
    Needed { name: "cublasLt", what_for: "matrix products", wheel: "nvidia-cublas", package: "libcublas" },
];

/// The library that training on several GPUs needs as well.
pub const NCCL: Needed =
    Needed { name: "nccl", what_for: "several GPUs together", wheel: "nvidia-nccl", package: "libnccl2" };

/// Names in the order in which they must be opened: each before those that need it.
const LIBRARIES: [&str; 3] = ["nvrtc-builtins", "nvrtc", "cublasLt"];

/// Opens the libraries outside the loader's own paths, once per process.
pub fn preload() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for name in LIBRARIES {
            if !open_by_name(name)
                && let Some(path) = in_folders(name)
            {
                keep_open(&path);
            }
        }
    });
}

/// Returns the path of the library `name`, or its plain file name if the system's loader finds it.
pub fn find(name: &str) -> Option<String> {
    let by_name = candidates(name).into_iter().find(|file| {
        // SAFETY: NVIDIA's libraries only set up their own tables when they are loaded.
        unsafe { libloading::Library::new(file) }.is_ok()
    });
    by_name.or_else(|| in_folders(name).map(|path| path.display().to_string()))
}

/// A version of CUDA, such as (12, 8).
pub type Version = (i32, i32);

/// The oldest version that works: the first driver with every function that is called (R570), and the first compiler
/// that accepts every kernel.
const OLDEST: Version = (12, 8);

/// Returns the newest CUDA version that the driver runs; None without a driver.
pub fn driver_version() -> Option<Version> {
    let mut version = 0;
    // SAFETY: libcuda is looked for first; the call, which every driver has, writes one number.
    let asked = unsafe { sys::is_culib_present().then(|| sys::cuDriverGetVersion(&mut version)) };
    asked?.result().ok()?;
    Some((version / 1000, version % 1000 / 10))
}

/// Returns the version that a library of `NEEDED` reports; None if it is not found.
pub fn version(name: &str) -> Option<Version> {
    preload();
    find(name)?;
    match name {
        "nvrtc" => {
            let (mut major, mut minor) = (0, 0);
            // SAFETY: the library was found; the call writes two numbers.
            let asked = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
            asked.result().ok().map(|()| (major, minor))
        }
        _ => {
            // SAFETY: the library was found; the call only reads a number, 130100 for 13.1.
            let version = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() } as i32;
            Some((version / 10_000, version % 10_000 / 100))
        }
    }
}

/// Returns the file of a library that this process has opened.
pub fn path(name: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    let prefix = format!("lib{name}.so");
    let is_it = |path: &&str| path.rsplit('/').next().is_some_and(|file| file.starts_with(&prefix));
    paths.into_iter().find(is_it).map(str::to_string)
}

pub(super) fn check_driver() -> Result<(), DeviceError> {
    let found = driver_version().ok_or(DeviceError::NoDriver)?;
    match found < OLDEST {
        true => Err(DeviceError::OldDriver { found: dotted(found), needed: dotted(OLDEST) }),
        false => Ok(()),
    }
}

/// Checks that both libraries are there, new enough for the kernels and not of a later major version than the driver.
pub(super) fn check_libraries() -> Result<(), DeviceError> {
    let driver = driver_version().map_or(OLDEST.0, |(major, _)| major);
    for Needed { name: library, .. } in NEEDED {
        let found = version(library).ok_or(DeviceError::NoLibrary { library })?;
        let wrong = |needed| Err(DeviceError::WrongLibrary { library, found: dotted(found), needed });
        if library == "nvrtc" && found < OLDEST {
            return wrong(format!("{} or later", dotted(OLDEST)));
        }
        if found.0 > driver {
            return wrong(format!("{driver} for this driver"));
        }
    }
    Ok(())
}

/// Returns a version as text, such as 12.8.
pub fn dotted((major, minor): Version) -> String {
    format!("{major}.{minor}")
}

/// Returns the folders that are searched, if they exist.
pub fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        folders.extend([toolkit.join("lib64"), toolkit.join("lib")]);
    }
    let own = env::var_os("NANOCHAT_CUDA_LIBRARIES").map(PathBuf::from);
    for site in own.into_iter().chain(python_sites()) {
        // The wheels of CUDA 13 share one folder; those of CUDA 12 have one each.
        folders.push(site.join("nvidia/cu13/lib"));
        folders
            .extend(["cuda_nvrtc", "cublas", "nccl"].map(|part| site.join("nvidia").join(part).join("lib")));
        folders.push(site);
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Returns the site-packages folders of the active environment and of the usual places.
fn python_sites() -> Vec<PathBuf> {
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let home = env::home_dir().map(|home| home.join(".local"));
    let prefixes = environments.chain(home).chain(["/usr/local", "/usr"].map(PathBuf::from));
    let mut sites: Vec<PathBuf> = env::var_os("PYTHONPATH").iter().flat_map(env::split_paths).collect();
    for lib in prefixes.map(|prefix| prefix.join("lib")) {
        for entry in fs::read_dir(lib).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python3") {
                sites.extend(["site-packages", "dist-packages"].map(|name| entry.path().join(name)));
            }
        }
    }
    sites
}

/// Returns the file of a library in one of the folders; of several versions the shortest name, such as
/// `libnvrtc.so.13`.
fn in_folders(name: &str) -> Option<PathBuf> {
    let prefix = format!("lib{name}.so");
    let in_folder = |folder: &Path| {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = files
            .filter(|file| file.file_name().to_string_lossy().starts_with(&prefix))
            .map(|file| file.path())
            .collect();
        found.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        found.into_iter().next()
    };
    folders().iter().find_map(|folder| in_folder(folder))
}

fn candidates(name: &str) -> Vec<String> {
    let versions = ["", ".13", ".12", ".2"]; // NCCL's version is 2
    versions.iter().map(|version| format!("lib{name}.so{version}")).collect()
}

fn open_by_name(name: &str) -> bool {
    candidates(name).iter().any(|file| {
        // SAFETY: as in `find`.
        unsafe { libloading::Library::new(file) }.is_ok()
    })
}

/// Opens a library for the rest of the process, with global symbols.
fn keep_open(path: &Path) {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: as in `find`. A failure shows when the library is asked for by name.
        if let Ok(library) = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
            std::mem::forget(library);
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}
