"""A folder for ``sys.path``: what is found there under the name pydensecrf is the front end."""
