# The same commands as 'python tasks.py', which does the work: 'make' lists them.
PYTHON ?= python3
TASK = @$(PYTHON) tasks.py $@

.PHONY: help repro data ui verify preview setup test test-all lint bench clean lock

help repro verify setup test test-all lint clean:
	$(TASK)

data: # FROM=folder of photos
	$(TASK) "$(FROM)"

ui: # PORT=5001 for another port
	$(TASK) $(if $(PORT),--port $(PORT))

preview: # AUGMENT=strong for another option
	$(TASK) $(if $(AUGMENT),augment=$(AUGMENT))

bench: # FLOWERS=folder of the flower photos, WEIGHTS=file without a network
	$(TASK) --flowers "$(FLOWERS)" $(if $(WEIGHTS),--weights "$(WEIGHTS)")

lock: # pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock
