# shellcheck shell=bash
# What the batch scripts and submit.sh share: the cluster's facts, starting the ranks, requeueing. Sourced from the repository's root.

# shellcheck source=slurm/cluster.env.example
source "${MINIEND_CLUSTER_ENV:-slurm/cluster.env}" || {
  echo "error: no slurm/cluster.env: copy slurm/cluster.env.example and fill it in" >&2
  exit 2
}
: "${PYTHON:=python}" "${LEAD:=120}" "${MAX_STALLED_RESTARTS:=3}"
declare -p SRUN_OPTIONS >/dev/null 2>&1 || SRUN_OPTIONS=()
declare -p CONTAINER >/dev/null 2>&1 || CONTAINER=()

# A pipeline command in the cluster's environment (modules, venv, container).
miniend() { "${CONTAINER[@]}" "$PYTHON" -m pipeline.cli "$@"; }

# `module load` and the like seldom bear the shell's strict options.
set_up() {
  local options=$-
  declare -F cluster_setup >/dev/null || return 0
  set +eu
  cluster_setup
  [[ $options != *e* ]] || set -e
  [[ $options != *u* ]] || set -u
}

die() {
  echo "error: $*" >&2
  exit 2
}

# -- inside a job ----------------------------------------------------------------------------------------------------------

# begin_job ARTIFACT: prepare the environment of a batch script. ARTIFACT is a directory below the run, e.g. distill/student.
begin_job() {
  [[ -n ${MINIEND_RUN:-} && -n ${SLURM_JOB_ID:-} ]] || die "this script is started by slurm/submit.sh"
  ASKED= # to stop, by Slurm
  trap 'ASKED=1' USR1 TERM
  ARTIFACT=$1
  JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
  JOB=${JOB:-$SLURM_JOB_ID}
  LOGS=$MINIEND_RUN/logs/$ARTIFACT${SHARDS:+/shards-$SLURM_ARRAY_TASK_ID}
  EVENTS=$MINIEND_RUN/logs/$ARTIFACT/job-$JOB.events
  mkdir -p "$LOGS"
  set_up
  echo "== job $JOB, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST: $ARTIFACT; logs of the ranks in $LOGS"
  refuse_to_turn_in_circles
  record running "${SLURM_RESTART_COUNT:-0}"
}

# record STATE [DETAIL]: one line that `miniend status` reads. Only this job writes to the file.
record() { printf '%s\t%s\t%s\n' "$(date +%s)" "$1" "${2:-}" >>"$EVENTS"; }

# Whatever restarts a job (its own requeue, preemption, a lost node), it may do so without progress only a few times.
# Progress is a shard, a checkpoint or an artifact completed below the artifact's directory since the last start.
refuse_to_turn_in_circles() {
  local now before stalled=0 memory=$MINIEND_RUN/logs/$ARTIFACT/job-$JOB.progress
  now=$(find "$MINIEND_RUN/$ARTIFACT" -path '*/shards/[0-9]*.json' -o -name complete.json -o -name manifest.json 2>/dev/null | sort | cksum)
  if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -f $memory ]]; then
    { read -r before && read -r stalled; } <"$memory"
    if [[ $now == "$before" ]]; then stalled=$((stalled + 1)); else stalled=0; fi
  fi
  printf '%s\n%s\n' "$now" "$stalled" >"$memory"
  if ((stalled > MAX_STALLED_RESTARTS)); then
    fail 1 "restarted $stalled times in a row without a new shard or checkpoint; raise the time limit or lower save_every, then submit again"
  fi
}

# fail CODE REASON: end the job so that Slurm cancels what depends on it.
fail() {
  echo "error: $ARTIFACT: $2" >&2
  record failed "$2"
  exit "$1"
}

# run_ranks SCRIPT ARGUMENT…: start $PROCESSES ranks on every node and end the job with what they end with.
run_ranks() {
  local step code
  rendezvous
  # --cpus-per-task: srun does not take it over from sbatch. --wait: a launcher that is left alone may not hang.
  srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    --wait=60 --kill-on-bad-exit=0 "${SRUN_OPTIONS[@]}" "${CONTAINER[@]}" "$PYTHON" -m pipeline.slurm.launch \
    --logs "$LOGS" --processes "${PROCESSES:-1}" -- "$@" &
  step=$!
  # srun hands SIGUSR1 on to the launchers, and these to the ranks.
  trap 'ASKED=1; echo "== asked to stop, telling the ranks"; kill -USR1 "$step"' USR1 TERM
  if [[ -n $ASKED ]]; then kill -USR1 "$step"; fi # while the job was being set up
  while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break # a trapped signal ends `wait`, not srun
  done
  trap 'ASKED=1' USR1 TERM
  # A signal may end srun itself before it has a step to hand it on to.
  if [[ -n $ASKED && $code -gt 128 ]]; then code=75; fi
  end_job "$code"
}

# Where the launchers of several nodes meet: a port that is free on the first node, where this script runs. Not one of those that the
# system hands out: srun, started next, could be given it. Another job on this node looks from another port on.
rendezvous() {
  ((SLURM_NNODES > 1)) || return 0
  local first address port
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  address=$(scontrol show node -o "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
  port=$("${CONTAINER[@]}" "$PYTHON" -c '
import socket, sys
for step in range(10000):
    port = 20000 + (17 * int(sys.argv[1]) + step) % 10000
    with socket.socket() as free:
        try:
            free.bind(("", port))
        except OSError:
            continue
    print(port)
    break' "$SLURM_JOB_ID")
  export MINIEND_RENDEZVOUS=${address:-$first}:$port
}

# end_job CODE: exit, or requeue where the stage said 75: saved, run again to go on.
end_job() {
  local code=$1
  case $code in
    0)
      record complete
      exit 0
      ;;
    75)
      # Only a running job is ours to requeue: one that was cancelled must not come back, another is on its way already.
      if [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]]; then
        echo "== stopped; requeueing $JOB"
        record requeued "${ASKED:+asked to stop}"
        scontrol requeue "$JOB" || fail 75 "could not be requeued; submit again to go on"
        sleep 600 # until Slurm ends this script
      fi
      exit 75
      ;;
    *)
      fail "$code" "exit code $code: $(last_error)"
      ;;
  esac
}

# The last line of a rank's log of this job that tells an error, for people and for `miniend status`.
last_error() {
  local log lines
  lines=$(for log in "$LOGS"/rank-*.log; do
    awk -v job=", job $SLURM_JOB_ID," '/^== rank / { mine = index($0, job) } mine' "$log" 2>/dev/null | tail -n 40
  done | grep -E '^(error:|[A-Za-z_.]*(Error|Exception|Interrupt)\b)|Killed|out of memory' | tail -n 1)
  echo "${lines:-see $LOGS}"
}
