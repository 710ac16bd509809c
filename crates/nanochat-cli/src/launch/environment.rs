//! Determines the rank of this process from the variables of the program that started it:
//!
//! | started by | rank | of | on its machine | rank 0's machine |
//! |---|---|---|---|---|
//! | `--gpus N`, torchrun, Kubernetes | RANK | WORLD_SIZE | LOCAL_RANK | MASTER_ADDR |
//! | Open MPI's mpirun | OMPI_COMM_WORLD_RANK | …_SIZE | …_LOCAL_RANK | MASTER_ADDR |
//! | SLURM's srun | SLURM_PROCID | SLURM_STEP_NUM_TASKS | SLURM_LOCALID | MASTER_ADDR, or the first of SLURM_STEP_NODELIST |
//!
//! MASTER_PORT is rank 0's port in all of them; NANOCHAT_SECRET is known only to the ranks.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nanochat_tensor::comm::Place;

const PORT: u16 = 29_500;

/// A rank in its run and on its machine.
#[derive(Debug)]
pub struct Started {
    pub place: Place,
    /// The index of this rank's GPU on its machine.
    pub local_rank: usize,
}

/// Returns None if the process was not started as a rank.
pub fn started(patience: Duration, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Started>> {
    let number = |name: &str| -> Result<Option<usize>> {
        variable(name).map(|value| parsed(name, &value)).transpose()
    };
    let needed = |name: &str, beside: &str| {
        number(name)?.with_context(|| format!("{beside} is set and {name} is not"))
    };
    let (rank, world_size, local_rank);
    if let Some(found) = number("RANK")? {
        (rank, world_size) = (found, needed("WORLD_SIZE", "RANK")?);
        local_rank = number("LOCAL_RANK")?.unwrap_or(0);
    } else if let Some(found) = number("OMPI_COMM_WORLD_RANK")? {
        (rank, world_size) = (found, needed("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")?);
        local_rank = needed("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK")?;
    } else if let Some(tasks) = number("SLURM_STEP_NUM_TASKS")? {
        // Only srun sets it. A batch script is a single process, whatever its SLURM_NTASKS.
        (rank, world_size) = (needed("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")?, tasks);
        local_rank = needed("SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")?;
    } else {
        return Ok(None);
    }
    ensure!(rank < world_size, "this process is started as rank {rank} of {world_size}; ranks count from 0");
    let secret = variable("NANOCHAT_SECRET");
    let place = Place { rank, world_size, master: master(world_size, &variable)?, secret, patience };
    Ok(Some(Started { place, local_rank }))
}

fn parsed<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().ok().with_context(|| format!("{name} is {value:?}, which is no number that it can be"))
}

/// Returns the host and port of rank 0.
fn master(world_size: usize, variable: &impl Fn(&str) -> Option<String>) -> Result<(String, u16)> {
    let slurm = variable("SLURM_STEP_NODELIST").filter(|_| variable("RANK").is_none());
    let host = variable("MASTER_ADDR").or_else(|| first_host(&slurm?));
    let Some(host) = host.or_else(|| (world_size == 1).then(|| "127.0.0.1".into())) else {
        bail!("there are {world_size} ranks; set MASTER_ADDR to the machine of rank 0, on all of them");
    };
    let port = match (variable("MASTER_PORT"), variable("SLURM_JOB_ID")) {
        (Some(port), _) => parsed("MASTER_PORT", &port)?,
        // Jobs that share a machine need different ports.
        (None, Some(job)) => PORT + (parsed::<u64>("SLURM_JOB_ID", &job)? % 10_000) as u16,
        (None, None) => PORT,
    };
    // torchrun itself listens at that port.
    let taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    Ok((host, if taken { port.wrapping_add(1) } else { port }))
}

/// Returns the first host: `gpu[03-05,9],cpu1` -> gpu03
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let number = match rest.strip_prefix('[') {
        Some(range) => range.split([',', '-', ']']).next()?,
        None => "",
    };
    Some(format!("{name}{number}")).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started_with(variables: &str) -> Result<Option<Started>> {
        let pairs: Vec<_> = variables.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        let value = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        started(Duration::from_secs(1), value)
    }

    #[track_caller]
    fn is(variables: &str, ranks: [usize; 3], master: (&str, u16)) {
        let Started { place, local_rank } = started_with(variables).unwrap().unwrap();
        assert_eq!([place.rank, place.world_size, local_rank], ranks);
        assert_eq!(place.master, (master.0.to_string(), master.1));
    }

    #[test]
    fn each_launcher_is_understood() {
        let torchrun = "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 MASTER_ADDR=node0 MASTER_PORT=2000";
        is(torchrun, [3, 8, 1], ("node0", 2000));
        is(&format!("{torchrun} TORCHELASTIC_USE_AGENT_STORE=True"), [3, 8, 1], ("node0", 2001));
        is("RANK=1 WORLD_SIZE=2 MASTER_ADDR=pod-0", [1, 2, 0], ("pod-0", 29_500));
        let mpi = "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=0 MASTER_ADDR=a";
        is(mpi, [2, 4, 0], ("a", 29_500));
        let slurm = "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=16 SLURM_LOCALID=5 SLURM_JOB_ID=1230007";
        is(&format!("{slurm} SLURM_STEP_NODELIST=gpu[03-04]"), [5, 16, 5], ("gpu03", 29_507));
        is(&format!("{slurm} SLURM_STEP_NODELIST=b MASTER_ADDR=c MASTER_PORT=9"), [5, 16, 5], ("c", 9));
    }

    #[test]
    fn a_process_that_nobody_started_as_a_rank_is_alone() {
        assert!(started_with("HOME=/root").unwrap().is_none());
        assert!(started_with("SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_ID=1").unwrap().is_none());
        is("RANK=0 WORLD_SIZE=1", [0, 1, 0], ("127.0.0.1", 29_500));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let complains = |variables, parts: &[&str]| {
            let error = started_with(variables).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        complains("RANK=0", &["RANK is set and WORLD_SIZE is not"]);
        complains("RANK=-1 WORLD_SIZE=2", &["RANK is \"-1\""]);
        complains("RANK=2 WORLD_SIZE=2 MASTER_ADDR=a", &["rank 2 of 2"]);
        complains("RANK=1 WORLD_SIZE=2", &["set MASTER_ADDR"]);
        complains("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", &["MASTER_PORT is \"70000\""]);
        complains("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0", &["SLURM_LOCALID"]);
    }

    #[test]
    fn the_first_host_of_slurms_lists() {
        for (list, first) in
            [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[07,9],m", "n07"), ("n-[1]", "n-1")]
        {
            assert_eq!(first_host(list).unwrap(), first, "{list}");
        }
        assert_eq!(first_host(""), None);
    }
}
