#!/usr/bin/env bash
# Submit what is missing of a recipe as a chain of jobs, from a login node and the repository's root:
#
#   slurm/submit.sh RECIPE [section.key=value …] [--from STAGE] [--until STAGE] [--dry-run]
#
# Stages: tokenize_corpus, cache_teacher, distill, distill_interpolated, finetune. What is complete is skipped, what is in the
# queue already is waited for. A job starts when those it needs have succeeded; when one fails, those that need it are cancelled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/common.sh
set_up

dry_run='' plan_arguments=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then dry_run=1; else plan_arguments+=("$argument"); fi
done

# sbatch's options for a stage, from cluster.env.
options_of() {
  local stage=$1 nodes ranks
  nodes=${NODES[$stage]} ranks=${RANKS[$stage]}
  printf '%s\n' "--nodes=$nodes" "--time=${TIME[$stage]}" "--signal=B:USR1@$LEAD" \
    ${PARTITION:+"--partition=$PARTITION"} ${ACCOUNT:+"--account=$ACCOUNT"} ${QOS:+"--qos=$QOS"} \
    ${MEMORY_PER_NODE:+"--mem=$MEMORY_PER_NODE"}
  if [[ $GPUS_PER_NODE -gt 0 && " ${CPU_STAGES[*]} " != *" $stage "* ]]; then
    printf '%s\n' "--gpus-per-node=$ranks" "--cpus-per-task=$((ranks * CPUS_PER_GPU))"
  elif [[ $GPUS_PER_NODE -gt 0 ]]; then
    printf '%s\n' "--cpus-per-task=$ranks"
  else
    printf '%s\n' "--cpus-per-task=$((ranks * CPUS_PER_GPU))"
  fi
  ((${#SBATCH_OPTIONS[@]} == 0)) || printf '%s\n' "${SBATCH_OPTIONS[@]}"
}

plan=$(miniend slurm-plan --cache-tasks "$CACHE_TASKS" "${plan_arguments[@]}")
declare -A job_of=()
submitted=()
trap '[[ $? -eq 0 || ${#submitted[@]} -eq 0 ]] || { echo "error: cancelling what was submitted: ${submitted[*]}" >&2; scancel "${submitted[@]}"; }' EXIT

# One line a job, see pipeline/slurm/plan.py; "-" stands for nothing.
while IFS=$'\t' read -ra fields; do
  kind=${fields[0]} key=${fields[1]} stage=${fields[2]:-}
  case $kind in
    skip)
      printf '%-9s %-44s %s\n' "-" "$key" "is complete"
      continue
      ;;
    live)
      job_of[$key]=$stage
      printf '%-9s %-44s %s\n' "$stage" "$key" "is in the queue already"
      continue
      ;;
  esac
  needs=${fields[3]} items=${fields[4]} run=${fields[5]} arguments=("${fields[@]:6}")
  resources=$stage # a link's cache takes what any cache takes
  if [[ $key == teacher_cache/* ]]; then resources=cache_teacher; fi
  mapfile -t options < <(options_of "$resources")
  logs=$run/logs/$key
  pattern=$logs/job-%j.out
  export MINIEND_RUN=$run MINIEND_ARTIFACT=$key MINIEND_ITEMS='' PROCESSES=${RANKS[$resources]}
  if [[ $items != - ]]; then
    MINIEND_ITEMS=$items
    read -ra words <<<"$items"
    options+=("--array=0-$((${#words[@]} - 1))%$ARRAY_AT_ONCE")
    pattern=$logs/job-%A_%a.out
  fi
  after=()
  if [[ $needs != - ]]; then
    IFS=, read -ra names <<<"$needs"
    for name in "${names[@]}"; do after+=("${job_of[$name]}"); done
    options+=("--dependency=afterok:$(IFS=:; echo "${after[*]}")")
  fi
  command=(sbatch --parsable "--job-name=$key" "--output=$pattern" "${options[@]}" "slurm/$stage.sbatch" "${arguments[@]}")
  if [[ -n $dry_run ]]; then
    job_of[$key]="<$key>"
    echo "MINIEND_RUN=$run MINIEND_ARTIFACT=$key MINIEND_ITEMS='$MINIEND_ITEMS' PROCESSES=$PROCESSES ${command[*]@Q}"
    continue
  fi
  mkdir -p "$logs"
  id=$("${command[@]}")
  id=${id%%;*} # on a federation: id;cluster
  submitted+=("$id")
  job_of[$key]=$id
  printf '%s\tsubmitted\t%s\t%s\n' "$(date +%s)" "$items" "$needs" >"$logs/job-$id.events"
  printf '%-9s %-44s %s\n' "$id" "$key" "${after[*]:+after ${after[*]}}"
done <<<"$plan"
trap - EXIT
[[ -n $dry_run || ${#submitted[@]} -eq 0 ]] || echo "watch them with: miniend status $run --watch"
