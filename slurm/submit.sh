#!/usr/bin/env bash
# Submit what is missing of a recipe as a chain of jobs. Run it on a login node:
#
#   slurm/submit.sh RECIPE [section.key=value …] [--from STAGE] [--until STAGE] [--dry-run]
#
# Stages: tokenize_corpus, cache_teacher, distill, distill_interpolated, finetune.
# Complete artifacts are skipped; jobs that are in the queue already are waited for. A job starts
# when those it needs have succeeded. When one fails, those that need it are cancelled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/common.sh
set_up

dry_run='' plan_arguments=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then dry_run=1; else plan_arguments+=("$argument"); fi
done

# options_of STAGE: sbatch's options for a stage, from cluster.env, one a line.
options_of() {
  local stage=$1 nodes ranks
  nodes=${NODES[$stage]} ranks=${RANKS[$stage]}
  printf '%s\n' "--nodes=$nodes" "--time=${TIME[$stage]}" "--signal=B:USR1@$LEAD" \
    ${PARTITION:+"--partition=$PARTITION"} ${ACCOUNT:+"--account=$ACCOUNT"} \
    ${QOS:+"--qos=$QOS"} ${MEMORY_PER_NODE:+"--mem=$MEMORY_PER_NODE"}
  if [[ $GPUS_PER_NODE -gt 0 && " ${CPU_STAGES[*]} " != *" $stage "* ]]; then
    printf '%s\n' "--gpus-per-node=$ranks" "--cpus-per-task=$((ranks * CPUS_PER_GPU))"
  elif [[ $GPUS_PER_NODE -gt 0 ]]; then
    printf '%s\n' "--cpus-per-task=$ranks"
  else
    printf '%s\n' "--cpus-per-task=$((ranks * CPUS_PER_GPU))"
  fi
  ((${#SBATCH_OPTIONS[@]} == 0)) || printf '%s\n' "${SBATCH_OPTIONS[@]}"
}

# joined SEPARATOR WORD…: the words as one.
joined() {
  local IFS=$1
  shift
  printf '%s\n' "$*"
}

# line NUMBER KEY TEXT: what is shown of a job.
line() { printf '%-9s %-44s %s\n' "$@"; }

# cancel_submitted: an error in the middle takes back what was submitted before it.
cancel_submitted() {
  local code=$?
  ((code != 0 && ${#submitted[@]} > 0)) || return 0
  echo "error: cancelling what was submitted: ${submitted[*]}" >&2
  scancel "${submitted[@]}"
}

# submit_job: submit the job whose fields have been read.
submit_job() {
  local id need waited_for options command after=() logs=$run/logs/$key
  local pattern=$logs/job-%j.out
  mapfile -t options < <(options_of "$resources")
  export MINIEND_RUN=$run MINIEND_ARTIFACT=$key MINIEND_ITEMS PROCESSES=${RANKS[$resources]}
  MINIEND_ITEMS=$(joined ' ' "${items[@]}")
  if ((${#items[@]} > 0)); then
    options+=("--array=0-$((${#items[@]} - 1))%$ARRAY_AT_ONCE")
    pattern=$logs/job-%A_%a.out
  fi
  for need in "${needs[@]}"; do after+=("${number_of[$need]}"); done
  ((${#after[@]} == 0)) || options+=("--dependency=afterok:$(joined : "${after[@]}")")
  command=(sbatch --parsable "--job-name=$key" "--output=$pattern" "${options[@]}"
    "slurm/$stage.sbatch" "${arguments[@]}")
  if [[ -n $dry_run ]]; then
    number_of[$key]="<$key>"
    echo "MINIEND_RUN=$run MINIEND_ARTIFACT=$key MINIEND_ITEMS='$MINIEND_ITEMS'" \
      "PROCESSES=$PROCESSES ${command[*]@Q}"
    return
  fi
  mkdir -p "$logs"
  id=$("${command[@]}")
  id=${id%%;*} # on a federation: id;cluster
  submitted+=("$id")
  number_of[$key]=$id
  waited_for=$(joined , "${needs[@]}")
  printf '%s\tsubmitted\t%s\t%s\n' "$(date +%s)" "${MINIEND_ITEMS:--}" "${waited_for:--}" \
    >"$logs/job-$id.events"
  line "$id" "$key" "${after[*]:+after ${after[*]}}"
}

plan=$(miniend slurm-plan --cache-tasks "$CACHE_TASKS" "${plan_arguments[@]}")
declare -A number_of=() # numbers of jobs by key
submitted=()
trap cancel_submitted EXIT

# NAME=VALUE lines, see pipeline/slurm/job_plan.py.
while IFS= read -r field; do
  value=${field#*=}
  case ${field%%=*} in
    run) run=$value ;;
    complete) line - "$value" "is complete" ;;
    queued) key=$value ;;
    number)
      number_of[$key]=$value
      line "$value" "$key" "is in the queue already"
      ;;
    job) key=$value needs=() items=() arguments=() ;;
    stage) stage=$value ;;
    resources) resources=$value ;;
    need) needs+=("$value") ;;
    item) items+=("$value") ;;
    argument) arguments+=("$value") ;;
    submit) submit_job ;;
    *) die "miniend slurm-plan printed a line that is no field: $field" ;;
  esac
done <<<"$plan"
trap - EXIT
[[ -n $dry_run || ${#submitted[@]} -eq 0 ]] || echo "watch them with: miniend status $run --watch"
