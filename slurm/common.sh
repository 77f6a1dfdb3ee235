# shellcheck shell=bash
# Sourced by the batch scripts and submit.sh from the repository's root: the cluster's facts, the
# start of the ranks, requeueing.

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

# set_up: run cluster_setup, without the strict options that `module load` and the like often break.
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

# -- inside a job ----------------------------------------------------------------------------------

# begin_job ARTIFACT: prepare the environment of a batch script. ARTIFACT is a directory below the
# run, e.g. distill/student.
begin_job() {
  [[ -n ${MINIEND_RUN:-} && -n ${SLURM_JOB_ID:-} ]] ||
    die "this script is started by slurm/submit.sh"
  ASKED= # 1 once Slurm asked to stop
  trap 'ASKED=1' USR1 TERM
  ARTIFACT=$1
  JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
  JOB=${JOB:-$SLURM_JOB_ID}
  LOGS=$MINIEND_RUN/logs/$ARTIFACT${SHARDS:+/shards-$SLURM_ARRAY_TASK_ID}
  EVENTS=$MINIEND_RUN/logs/$ARTIFACT/job-$JOB.events
  mkdir -p "$LOGS"
  set_up
  echo "== job $JOB, restart ${SLURM_RESTART_COUNT:-0}, on $SLURM_JOB_NODELIST:" \
    "$ARTIFACT; logs of the ranks in $LOGS"
  stop_without_progress
  record running "${SLURM_RESTART_COUNT:-0}"
}

# record STATE [DETAIL]: one line that `miniend status` reads. Only this job writes to the file.
record() { printf '%s\t%s\t%s\n' "$(date +%s)" "$1" "${2:-}" >>"$EVENTS"; }

# stop_without_progress: fail if the job was restarted without progress more than a few times in a
# row, by its own requeue, preemption or a lost node. Progress is a shard, a checkpoint or an
# artifact completed below the artifact's directory since the last start.
stop_without_progress() {
  local now before stalled=0 memory=$MINIEND_RUN/logs/$ARTIFACT/job-$JOB.progress
  now=$(find "$MINIEND_RUN/$ARTIFACT" -path '*/shards/[0-9]*.json' -o -name complete.json \
    -o -name manifest.json 2>/dev/null | sort | cksum)
  if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && -f $memory ]]; then
    { read -r before && read -r stalled; } <"$memory"
    if [[ $now == "$before" ]]; then stalled=$((stalled + 1)); else stalled=0; fi
  fi
  printf '%s\n%s\n' "$now" "$stalled" >"$memory"
  if ((stalled > MAX_STALLED_RESTARTS)); then
    fail 1 "restarted $stalled times in a row without a new shard or checkpoint;\
 raise the time limit or lower save_every, then submit again"
  fi
}

# fail CODE REASON: end the job so that Slurm cancels the jobs that depend on it.
fail() {
  echo "error: $ARTIFACT: $2" >&2
  record failed "$2"
  exit "$1"
}

# run_ranks SCRIPT ARGUMENT…: start $PROCESSES ranks on every node; end the job as they end.
run_ranks() {
  local step code
  rendezvous
  # --cpus-per-task: srun does not inherit it from sbatch.
  # --wait: a launcher left alone must not hang.
  srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --wait=60 --kill-on-bad-exit=0 \
    "${SRUN_OPTIONS[@]}" "${CONTAINER[@]}" "$PYTHON" -m pipeline.slurm.launch \
    --logs "$LOGS" --processes "${PROCESSES:-1}" -- "$@" &
  step=$!
  # srun passes SIGUSR1 to the launchers, and these to the ranks.
  trap 'ASKED=1; echo "== asked to stop, telling the ranks"; kill -USR1 "$step"' USR1 TERM
  if [[ -n $ASKED ]]; then kill -USR1 "$step"; fi # while the job was being set up
  while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break # a trapped signal ends `wait`, not srun
  done
  trap 'ASKED=1' USR1 TERM
  # A signal may end srun itself before it has a step to pass it to.
  if [[ -n $ASKED && $code -gt 128 ]]; then code=75; fi
  end_job "$code"
}

# rendezvous: choose where the launchers of several nodes meet, a free port of the first node, which
# runs this script. It is not one that the system hands out, since srun, started next, could get it.
# Another job on this node begins its search at another port.
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

# end_job CODE: exit, or requeue if CODE is 75: the stage saved, and the same command goes on.
end_job() {
  local code=$1
  case $code in
    0)
      record complete
      exit 0
      ;;
    75)
      # Only a running job: a cancelled one must not come back, any other is being requeued already.
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

# last_error: the last line with an error in the ranks' logs of this job, for `miniend status`.
last_error() {
  local log lines
  lines=$(for log in "$LOGS"/rank-*.log; do
    awk -v job=", job $SLURM_JOB_ID," '/^== rank / { mine = index($0, job) } mine' "$log" \
      2>/dev/null | tail -n 40
  done | grep -E '^(error:|[A-Za-z_.]*(Error|Exception|Interrupt)\b)|Killed|out of memory' |
    tail -n 1)
  echo "${lines:-see $LOGS}"
}
