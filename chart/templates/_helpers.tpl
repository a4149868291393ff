{{- define "coproc.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "coproc.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "coproc.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "coproc.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "coproc.selector" -}}
app.kubernetes.io/name: {{ include "coproc.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "coproc.labels" -}}
{{ include "coproc.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The roles by their keys in values: component name, --roles, executor. */}}
{{- define "coproc.roles" -}}
api: {component: api, roles: api, port: grpc, serving: true, chains: true}
results: {component: results, roles: results, port: results, serving: true}
workerCpu: {component: worker-cpu, roles: worker, executor: cpu}
workerGpu: {component: worker-gpu, roles: worker, executor: gpu}
listener: {component: listener, roles: listener, chains: true}
{{- end -}}

{{- define "coproc.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "coproc.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Call with (dict "root" $ "gpu" bool). */}}
{{- define "coproc.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := ternary $image.gpuDigest $image.digest .gpu -}}
{{- if $digest -}}
{{- printf "%s@%s" $image.repository $digest -}}
{{- else -}}
{{- printf "%s:%s%s" $image.repository (default .root.Chart.AppVersion $image.tag) (ternary $image.gpuTagSuffix "" .gpu) -}}
{{- end -}}
{{- end -}}

{{/* Seconds from SIGKILL back to the preStop hook: the drain, then 60 for closing sockets, executor, store and health
(five actors of up to 10 seconds each, and 10 to spare). */}}
{{- define "coproc.grace" -}}
{{- add (int .Values.drainSeconds) 60 (ternary (int .Values.preStopSeconds) 0 .serving) -}}
{{- end -}}

{{- define "coproc.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "coproc.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "coproc.databaseSecret" -}}
{{- required "database.existingSecret must name a secret with the URL of a Postgres" .Values.database.existingSecret -}}
{{- end -}}
