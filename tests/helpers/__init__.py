"""What tests share.

project    a copy of the project with toy data and a toy backbone, under real DVC; what a file of it imports
options    plain values of every section of the configuration, for toys
finished   what a finished pipeline leaves behind, fabricated
families   the backbones of the table, for tests that hold for each
pictures   image files of every kind, whole and broken
killing    end a process at a certain place; see whether one is alive
servers    real servers: MLflow, PostgreSQL, Ray
"""
