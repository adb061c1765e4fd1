{{- define "assay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "assay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains (include "assay.name" .) .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "assay.name" .) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "assay.selector" -}}
app.kubernetes.io/name: {{ include "assay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "assay.labels" -}}
{{ include "assay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "assay.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "assay.usesHub" -}}
{{- if has .Values.model.source (list "hub" "pull") }}true{{ end -}}
{{- end -}}

{{- define "assay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "assay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Environment that says which model, for the server and for the pull. */}}
{{- define "assay.modelEnv" -}}
{{- if include "assay.usesHub" . -}}
- name: ASSAY_MODEL
  value: {{ .Values.model.id | quote }}
- name: ASSAY_REVISION
  value: {{ .Values.model.revision | quote }}
- name: ASSAY_CACHE_DIR
  value: /cache
{{- else -}}
- name: ASSAY_MODEL
  value: {{ printf "%s/%s" .Values.model.mountPath .Values.model.directory | quote }}
{{- end }}
- name: ASSAY_LOG_FORMAT
  value: {{ get .Values.settings "log_format" | default "json" }}
{{- end -}}

{{/* The token of the hub, for the one container that asks it. */}}
{{- define "assay.hubToken" -}}
{{- with .Values.model.tokenSecret }}
{{- if .name }}
- name: ASSAY_HUB_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "assay.modelMount" -}}
- name: assay-model
{{- if include "assay.usesHub" . }}
  mountPath: /cache
{{- else }}
  mountPath: {{ .Values.model.mountPath }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* What of secrets is mounted is read anew by the server when the kubelet renews it. */}}
{{- define "assay.securityEnv" -}}
{{- with .Values.tls }}
{{- if .enabled }}
- name: ASSAY_TLS_CERT
  value: /run/secrets/tls/{{ .secret.certificate }}
- name: ASSAY_TLS_KEY
  value: /run/secrets/tls/{{ .secret.privateKey }}
{{- if .clientCaSecret.name }}
- name: ASSAY_TLS_CLIENT_CA
  value: /run/secrets/client-ca/{{ .clientCaSecret.key }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.auth.tokensSecret.name }}
- name: ASSAY_TOKEN_FILE
  value: /run/secrets/tokens/{{ .Values.auth.tokensSecret.key }}
{{- end }}
{{- end -}}

{{- define "assay.securityMounts" -}}
{{- if .Values.tls.enabled }}
- name: assay-tls
  mountPath: /run/secrets/tls
  readOnly: true
{{- if .Values.tls.clientCaSecret.name }}
- name: assay-client-ca
  mountPath: /run/secrets/client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- if .Values.auth.tokensSecret.name }}
- name: assay-tokens
  mountPath: /run/secrets/tokens
  readOnly: true
{{- end }}
{{- end -}}

{{- define "assay.securityVolumes" -}}
{{- with .Values.tls }}
{{- if .enabled }}
- name: assay-tls
  secret:
    secretName: {{ .secret.name | quote }}
    defaultMode: 0440
    items:
      - key: {{ .secret.certificate | quote }}
        path: {{ .secret.certificate | quote }}
      - key: {{ .secret.privateKey | quote }}
        path: {{ .secret.privateKey | quote }}
{{- if .clientCaSecret.name }}
- name: assay-client-ca
  secret:
    secretName: {{ .clientCaSecret.name | quote }}
    defaultMode: 0440
    items:
      - key: {{ .clientCaSecret.key | quote }}
        path: {{ .clientCaSecret.key | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.auth.tokensSecret }}
{{- if .name }}
- name: assay-tokens
  secret:
    secretName: {{ .name | quote }}
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: {{ .key | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How the port for calls speaks: HTTP/2, over TLS or in plain text. */}}
{{- define "assay.appProtocol" -}}
{{- if .Values.tls.enabled }}https{{ else }}kubernetes.io/h2c{{ end -}}
{{- end -}}

{{/* Whether the port for calls answers health to those without a certificate's authority or a token. */}}
{{- define "assay.healthIsOpen" -}}
{{- $open := get .Values.settings "open_services" | default "health" -}}
{{- if not (or .Values.tls.enabled (and .Values.auth.tokensSecret.name (not (contains "health" $open)))) }}true{{ end -}}
{{- end -}}

{{/* Pods of `helm test`, which may ask the admin port where the other does not answer them. */}}
{{- define "assay.testLabels" -}}
app.kubernetes.io/component: test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Fields of the server's container that both modes have. Takes the context, the address to listen on, the drain wait. */}}
{{- define "assay.server" -}}
{{- $listen := .listen -}}
{{- $wait := .wait -}}
{{- with .context -}}
image: {{ include "assay.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: ASSAY_LISTEN
    value: {{ $listen | quote }}
  {{- include "assay.modelEnv" . | nindent 2 }}
  {{- if eq .Values.model.source "hub" }}
  {{- with include "assay.hubToken" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- else }}
  - name: ASSAY_OFFLINE
    value: "true"
  {{- end }}
  - name: ASSAY_THREADS
    value: {{ .Values.threads | quote }}
  - name: ASSAY_DRAIN_WAIT
    value: {{ printf "%ds" (int $wait) }}
  - name: ASSAY_DRAIN_LIMIT
    value: {{ printf "%ds" (int .Values.drain.limitSeconds) }}
  {{- if .Values.judge.url }}
  - name: ASSAY_JUDGE_URL
    value: {{ .Values.judge.url | quote }}
  - name: ASSAY_JUDGE_MODEL
    value: {{ required "judge.model is needed with judge.url" .Values.judge.model | quote }}
  {{- if .Values.judge.keySecret.name }}
  - name: ASSAY_JUDGE_KEY_FILE
    value: /run/secrets/judge/{{ .Values.judge.keySecret.key }}
  {{- end }}
  {{- end }}
  {{- with include "assay.securityEnv" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .Values.otlp.endpoint }}
  - name: ASSAY_OTLP_ENDPOINT
    value: {{ .Values.otlp.endpoint | quote }}
  {{- if .Values.otlp.headersSecret.name }}
  - name: ASSAY_OTLP_HEADERS
    valueFrom:
      secretKeyRef:
        name: {{ .Values.otlp.headersSecret.name }}
        key: {{ .Values.otlp.headersSecret.key }}
  {{- end }}
  {{- end }}
  {{- range $name, $value := omit .Values.settings "log_format" }}
  - name: ASSAY_{{ upper $name }}
    value: {{ if kindIs "float64" $value }}{{ if eq $value (floor $value) }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}{{ else }}{{ $value | quote }}{{ end }}
  {{- end }}
livenessProbe:
  grpc:
    port: 9090
    service: liveness
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "assay.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "assay.modelMount" . | nindent 2 }}
  {{- if and .Values.judge.url .Values.judge.keySecret.name }}
  - name: assay-judge
    mountPath: /run/secrets/judge
    readOnly: true
  {{- end }}
  {{- with include "assay.securityMounts" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "assay.readinessProbe" -}}
grpc:
  port: 9090
periodSeconds: 2
timeoutSeconds: 2
failureThreshold: 1
{{- end -}}

{{/* The init container that fetches the model, where model.source is pull. */}}
{{- define "assay.pull" -}}
{{- if eq .Values.model.source "pull" -}}
- name: assay-pull
  image: {{ include "assay.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [pull]
  env:
    {{- include "assay.modelEnv" . | nindent 4 }}
    {{- with include "assay.hubToken" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- include "assay.containerSecurity" . | nindent 4 }}
  volumeMounts:
    {{- include "assay.modelMount" . | nindent 4 }}
{{- end -}}
{{- end -}}

{{/* Volumes of a pod with the server. */}}
{{- define "assay.volumes" -}}
- name: assay-model
{{- if include "assay.usesHub" . }}
  emptyDir:
    sizeLimit: {{ .Values.model.cacheSize }}
{{- else if eq .Values.model.source "image" }}
  image:
    reference: {{ required "model.image.reference is needed with model.source image" .Values.model.image.reference }}
    pullPolicy: {{ .Values.model.image.pullPolicy }}
{{- else }}
  persistentVolumeClaim:
    claimName: {{ required "model.claimName is needed with model.source claim" .Values.model.claimName }}
    readOnly: true
{{- end }}
{{- if and .Values.judge.url .Values.judge.keySecret.name }}
- name: assay-judge
  secret:
    secretName: {{ .Values.judge.keySecret.name }}
    defaultMode: 0440
{{- end }}
{{- with include "assay.securityVolumes" . | trim }}
{{ . }}
{{- end }}
{{- end -}}

{{/*
Init containers for the pod of another chart, which has this one as a dependency:

  initContainers:
    {{- include "assay.sidecar" .Subcharts.assay | nindent 8 }}
  volumes:
    {{- include "assay.volumes" .Subcharts.assay | nindent 8 }}

Calls are served on 127.0.0.1:50051, over TLS with tls.enabled. The pod's terminationGracePeriodSeconds is to be more than what the app takes to
end and drain.limitSeconds together. There is no drain wait: Assay is told to stop when the app has ended.
*/}}
{{- define "assay.sidecar" -}}
{{- include "assay.pull" . }}
- name: assay
  restartPolicy: Always
  {{- include "assay.server" (dict "context" . "listen" "127.0.0.1:50051" "wait" 0) | nindent 2 }}
  ports:
    - name: admin
      containerPort: 9090
  startupProbe:
    grpc:
      port: 9090
      {{- if eq .Values.sidecar.appStarts "early" }}
      service: liveness
      {{- end }}
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: {{ .Values.sidecar.startupSeconds }}
  {{- if eq .Values.sidecar.appStarts "warm" }}
  readinessProbe:
    {{- include "assay.readinessProbe" . | nindent 4 }}
  {{- end }}
{{- end -}}
