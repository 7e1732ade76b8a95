#!/bin/sh
# Submit the job, unless one runs; from the newest checkpoint, where there is one. Arguments: the job's.
# To start afresh, remove the volume of the checkpoints.
set -eu

jobmanager=jobmanager:8081
checkpoints=/var/lib/flink/checkpoints
code=/opt/anomaly_cost

case "$(flink list --running -m "$jobmanager")" in
*"No running jobs."*) ;;
*)
    echo "submit: the job runs already"
    exit 0
    ;;
esac

newest=$(find "$checkpoints" -path '*/chk-*/_metadata' -printf '%T@ %h\n' | sort -rn | head -n 1 | cut -d ' ' -f 2-)
if [ -n "$newest" ]; then
    echo "submit: from $newest"
    set -- -pyfs "$code" -py "$code/jobs/anomaly_cost.py" "$@"
    exec flink run -d -m "$jobmanager" -s "file://$newest" "$@"
fi
exec flink run -d -m "$jobmanager" -pyfs "$code" -py "$code/jobs/anomaly_cost.py" "$@"
